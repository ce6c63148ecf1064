"""docs/video.md is true: its commands run as they stand, with servers on this machine, and its tables are the code's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import dataset
from support.media_server import MediaServer
from support.sites import SiteServer, plugin_folder
from support.videos import Gallery, seen

from img2dataset_dist.config import JobConfig, options
from img2dataset_dist.errors import ROW_ERRORS
from img2dataset_dist.fetchers import clip_ranges
from img2dataset_dist.fetchers.sites import LONGEST, PATIENCE
from img2dataset_dist.ffmpeg.recipe import _SECTIONS, Recipe

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "video.md").read_text()
WORDS = " ".join(PAGE.split())
pytestmark = pytest.mark.timeout(240)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def recipe(folder: str) -> str:
    """The command whose output is there."""
    (found,) = (code for code in blocks("sh") if f"--output_folder={folder}\n" in code)
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[SiteServer]:
    with SiteServer() as running:
        yield running


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def media(gallery: Gallery) -> Iterator[MediaServer]:
    with MediaServer(gallery.folder) as running:
        yield running


def run(command: str, folder: Path, more: str = "") -> str:
    """A command of the page, with what servers on this machine need; its output."""
    command = command.replace("--url_list", f"--allow_private_addresses --progress=none {more} --url_list")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["sh", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def webvid(gallery: Gallery, media: MediaServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first recipe has been run; others go on from it."""
    folder = tmp_path_factory.mktemp("webvid")
    header, example = blocks("csv")[0].splitlines()
    assert header.split(",") == ["videoid", "contentUrl", "duration", "page_dir", "name"]
    assert len(example.split(",")) == 5
    urls = [media.url(f"/{gallery(name).name}") for name in ("scenes", "moov_first")] + [media.url("/status/404/x.mp4")]
    rows = [f"{n},{url},PT00H00M04S,000001_000050,Film {n}" for n, url in enumerate(urls)]
    (folder / "webvid.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "examples").symlink_to(ROOT / "examples")
    run(recipe("webvid"), folder)
    return folder


def rows_of(folder: Path) -> list[dict[str, object]]:
    found = dataset.rows(folder)
    return [found[key] for key in sorted(found)]


def test_videos_with_captions(webvid: Path) -> None:
    rows = rows_of(webvid / "webvid")
    assert [row["error_code"] for row in rows] == [None, None, "http_404"]
    assert [row["caption"] for row in rows] == ["Film 0", "Film 1", "Film 2"]
    assert {(row["height"], row["fps"], row["duration"]) for row in rows[:2]} == {(120, 8.0, "PT00H00M04S")}
    assert set(dataset.media(webvid / "webvid")) == {
        f"0000000{n}.{kind}" for n in range(2) for kind in ("mp4", "txt", "json")
    }


def test_videos_of_a_site(site: SiteServer, tmp_path: Path) -> None:
    (line,) = blocks("json")
    row = json.loads(line)
    row["url"] = site.url("/fake/texts")
    (tmp_path / "talks.jsonl").write_text(json.dumps(row) + "\n")
    plugins = json.dumps({"plugin_dirs": [plugin_folder(tmp_path / "plugins")]})
    site.forget()
    run(recipe("talks"), tmp_path, f"--yt_args='{plugins}'")
    first, second = rows_of(tmp_path / "talks")
    assert (first["key"], second["key"]) == ("00000000_00000", "00000000_00001")
    assert first["clips"] == [[0.5, 1.5]]
    assert json.loads(str(first["clip_subtitles"]))[0]["lines"]["en"] == ["hello"]
    assert json.loads(str(first["yt_meta_dict"]))["info"]["view_count"] == 7
    names = set(dataset.media(tmp_path / "talks"))
    assert {f"00000000_00000.{part}" for part in ("mp4", "en.vtt", "de.vtt", "json")} <= names
    assert site.count("/media/180p.mp4") == 1, "fetched once for both"


def test_sounds(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    names = [gallery(name).name for name in ("mp3", "moov_first")]
    (tmp_path / "talks.txt").write_text("\n".join(media.url(f"/{name}") for name in names))
    run(recipe("speech"), tmp_path, "--output_format=files")
    for path in sorted((tmp_path / "speech" / "00000").glob("*.flac")):
        sound = seen(path)
        assert (sound.audio_codec, sound.rate, sound.samples.shape[0]) == ("flac", 16000, 1)
    assert len(rows_of(tmp_path / "speech")) == 2


def test_any_files(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    (gallery.folder / "a").write_bytes(b"%PDF-1.4\n" + bytes(100))
    (gallery.folder / "b").write_bytes(b'{"a": 1}')
    (gallery.folder / "c").write_bytes(b"words")
    (gallery.folder / "d").write_bytes(bytes(range(200)))
    urls = [media.url(f"/{name}") for name in (*"abcd", gallery("moov_first").name)] + [media.url("/html200/a")]
    (tmp_path / "files.txt").write_text("\n".join(urls))
    run(recipe("files"), tmp_path)
    parts = {name.split(".", 1)[1] for name in dataset.media(tmp_path / "files")} - {"json"}
    assert parts == {"pdf", "data.json", "data.txt", "bin", "mp4", "html"}
    kinds = [str(row["kind"]) for row in rows_of(tmp_path / "files")]
    assert kinds == ["text", "text", "text", "other", "video", "page"]
    assert set(kinds) <= set(re.findall(r"`kind` \(([a-z, ]+)\)", PAGE)[0].split(", "))


def test_clips_of_a_dataset(webvid: Path) -> None:
    run(recipe("scenes"), webvid)
    rows = rows_of(webvid / "scenes")
    assert [row["key"] for row in rows if row["error_code"]][-1] == "00000002", "a failed row stays one"
    scenes = [row["clips"] for row in rows if str(row["key"]).startswith("00000000_")]
    # cuts at 2 and 3 seconds, but at 8 frames per second the second is less than min_scene_frames behind the first
    assert [clip[0] for clip in scenes] == [pytest.approx(span, abs=0.2) for span in ([0, 2], [2, 6])]  # type: ignore[index]


def test_optical_flow(webvid: Path) -> None:
    run(recipe("flow"), webvid)
    assert "00000000.npy" in dataset.media(webvid / "flow")
    found = json.loads(str(rows_of(webvid / "flow")[0]["stages"]))["optical_flow"]
    assert (found["fps"], found["downsample_size"]) == (2, 64)


def test_a_model_of_ones_own(webvid: Path) -> None:
    run(recipe("described"), webvid)
    assert "mostly" in json.loads(str(rows_of(webvid / "described")[1]["stages"]))["colours"]


def test_the_loader(webvid: Path) -> None:
    pytest.importorskip("webdataset")
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=webvid, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "00000001 (4, 120, 160, 3) Film 1" in done.stdout.splitlines()


def test_every_command_is_tried() -> None:
    tried = {"webvid", "talks", "speech", "files", "scenes", "flow", "described"}
    assert {folder for code in blocks("sh") for folder in re.findall(r"--output_folder=(\w+)", code)} == tried
    assert len(blocks("sh")) == len(tried)


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    _, _, rest = PAGE.partition(f"# {heading}\n")
    lines = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert lines, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_every_step_has_its_options() -> None:
    section, listed = "", {}
    for _, left, right in table_after("Steps and options"):
        first, _, rest = left.partition(":") if "Subsampler`:" in left else ("", "", left)
        section = first.strip("`") or section
        names, flat = re.findall(r"`(\w+)`", rest or ""), re.findall(r"`(\w+)`", right)
        if not first and left.startswith("`") and left.strip("`").endswith("Subsampler"):
            section, names = left.strip("`"), []
        known = [name for name in names if name in _SECTIONS[section]]
        listed |= {(section, name): option for name, option in zip(known, flat, strict=False)}
        assert set(flat) <= set(options()), flat
    wanted = {
        (section, name): option
        for section, arguments in _SECTIONS.items()
        for name, option in arguments.items()
        if name not in ("encode_format", "framerates")
    }
    found = {key: option for key, option in listed.items() if key[1] != "encode_format"}
    assert found == wanted


def test_the_file_of_steps_is_one(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    path = tmp_path / "steps.yaml"
    path.write_text(text)
    assert list(yaml.safe_load(text)) == ["ResolutionSubsampler", "FrameSubsampler"]
    found = Recipe.of(JobConfig.from_flat({"url_list": "x", "media": "video", "subsampling": str(path)}).media)
    assert (found.size, found.fps, found.modes) == (64, 5, {"scale", "crop"})


def test_every_code_is_one() -> None:
    for heading in ("Sites: blocked and dead", "Errors"):
        for cells in table_after(heading):
            for code in re.findall(r"`(\w+)`", cells[0]):
                assert code in ROW_ERRORS
    for code, _, again in table_after("Sites: blocked and dead"):
        assert ROW_ERRORS[code.strip("`")].transient == (not again.startswith("no")), code


def test_the_constants_are_the_codes() -> None:
    assert f"at most {clip_ranges.MOST:g} times" in WORDS
    assert LONGEST == 3600
    assert "up to an hour" in WORDS
    assert PATIENCE == 3
    assert "After three pauses in a row" in WORDS
    for name in re.findall(r"`(\w+)=[\w,]+`", PAGE):
        assert name in options(), name
