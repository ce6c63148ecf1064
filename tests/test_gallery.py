"""Every format and every defect through the real command, and the picture that shows what came out.

GALLERY=folder pytest tests/test_gallery.py     writes gallery.png and gallery.html there, else below pytest's tmp_path
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from support import dataset
from support.gallery import SUCCESS, Case, cases
from support.photos import url_list
from support.scaling import scaled
from support.server import HOSTS, NastyServer
from support.sheet import Entry, Sheet
from support.witness import difference, glimpse, views

pytestmark = pytest.mark.slow
FINE_SIZE = 96


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case: its row of the dataset, and what was stored for it, None for nothing."""

    case: Case
    row: Mapping[str, Any]
    data: bytes | None
    suffix: str

    @property
    def code(self) -> str:
        return self.row["error_code"] or SUCCESS

    @property
    def pixels(self) -> np.ndarray:
        """As a reader sees it that knows nothing of tags and profiles."""
        assert self.data is not None
        with Image.open(io.BytesIO(self.data)) as image:
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """All cases by their URL, on a server that serves them."""
    folder = tmp_path_factory.mktemp("gallery")
    for case in cases():
        (folder / case.file).write_bytes(case.body)
    with NastyServer(folder) as running:
        urls = {}
        for index, case in enumerate(cases()):
            typed = f"typed/{case.file}?type={quote(case.content_type)}" if case.content_type is not None else None
            urls[running.url(f"/{typed or f'photo/{case.file}'}", HOSTS[index % 3])] = case
        yield urls


def run(gallery: Mapping[str, Case], folder: Path, *options: str) -> list[Outcome]:
    """The command over all cases; its rows in their order, after checking that none is lost."""
    url_list(folder / "urls.txt", list(gallery))
    program = [sys.executable, "-m", "img2dataset_dist", "urls.txt", "--output_folder=out", "--processes_count=2"]
    program += ["--output_format=webdataset", "--number_sample_per_shard=100", "--progress=none"]
    program += ["--allow_private_addresses", *options]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=240, cwd=folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    out = folder / "out"
    dataset.check_whole(out)
    assert dataset.leftovers(out) == []
    files = dict(stored(out))
    rows = dataset.rows(out)
    assert sorted(row["url"] for row in rows.values()) == sorted(gallery), "rows are conserved"
    assert {key for key, row in rows.items() if row["status"] == SUCCESS} == files.keys()
    return [Outcome(gallery[row["url"]], row, *files.get(key, (None, ""))) for key, row in sorted(rows.items())]


def stored(out: Path) -> Iterator[tuple[str, tuple[bytes, str]]]:
    """Key to content and suffix of each stored picture."""
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if suffix not in ("json", "txt"):
                    yield key, (tar.extractfile(member).read(), suffix)


# what has to come


def complaint(outcome: Outcome, expected: np.ndarray | None, codes: frozenset[str], slack: float) -> str:
    """What is wrong with an outcome in a line, or nothing."""
    case, row = outcome.case, outcome.row
    if outcome.code not in codes:
        return f"{outcome.code} ({row['error_message']}) in place of {'/'.join(sorted(codes))}"
    if outcome.code != SUCCESS or case.picture is None or expected is None:
        return ""
    original = (row["original_width"], row["original_height"])
    if original != case.size:
        return f"original size {original} in place of {case.size}"
    pixels = outcome.pixels
    if pixels.shape[:2] != expected.shape[:2]:
        return f"{pixels.shape[1::-1]} in place of {expected.shape[1::-1]}"
    if (row["width"], row["height"]) != pixels.shape[1::-1]:
        return f"the row says {row['width']} x {row['height']}"
    worst = difference(pixels, expected)
    return f"other colours: {worst:.1f} levels" if worst > case.tolerance + slack else ""


def bordered(image: Image.Image, side: int) -> np.ndarray:
    """Longer side to `side`, on a white square; independent of OpenCV."""
    inner = fitted(image, side, max(image.size))
    paper = np.full((side, side, *inner.shape[2:]), 255.0)
    top, left = (side - inner.shape[0]) // 2, (side - inner.shape[1]) // 2
    paper[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return paper


def fitted(image: Image.Image, side: int, reference: int) -> np.ndarray:
    """With that side at `side` pixels."""
    width, height = (max(1, round(length * side / reference)) for length in image.size)
    return scaled(np.asarray(image), width, height, "area" if side < reference else "lanczos")


def check(outcomes: list[Outcome], wrong: dict[str, str]) -> None:
    """All of it at once, since one fault often shows in many cases."""
    assert not wrong, "\n" + "\n".join(f"{name}: {text}" for name, text in wrong.items())
    assert len(outcomes) == len(cases())


# the tests


def test_the_gallery_is_what_it_says() -> None:
    """Each picture that another decoder can read is, by one of them at least, what is expected of us."""
    wrong = {}
    for case in cases():
        if case.picture is None or case.tolerance > 100:
            continue
        expected = np.asarray(case.picture)
        seen = [view for view in views(case.body) if view.shape[:2] == expected.shape[:2]]
        worst = [difference(view, expected) for view in seen]
        if worst and min(worst) > case.tolerance and case.codes == {SUCCESS}:
            wrong[case.name] = f"{min(worst):.1f}"
    assert not wrong


def test_by_default(gallery: Mapping[str, Case], tmp_path: Path) -> None:
    """256 pixels with a white border, as JPEG. This is what the picture shows."""
    outcomes = run(gallery, tmp_path)
    wrong = {}
    for outcome in outcomes:
        thin = outcome.case.size is not None and min(outcome.case.size) == 1 < max(outcome.case.size)
        expected = bordered(outcome.case.picture, 256) if outcome.case.picture else None
        # A line one pixel wide loses its colour to the JPEG that is stored, and hard edges are scaled in two steps.
        if text := complaint(outcome, expected, outcome.case.codes, slack=100 if thin else 25):
            wrong[outcome.case.name] = text
    show(outcomes, wrong, tmp_path)
    check(outcomes, wrong)


def test_keep_ratio_as_png(gallery: Mapping[str, Case], tmp_path: Path) -> None:
    options = ["--resize_mode=keep_ratio", f"--image_size={FINE_SIZE}", "--encode_format=png", "--encode_quality=1"]
    outcomes = run(gallery, tmp_path, *options, "--resize_only_if_bigger", "--decode=exact")
    wrong = {}
    for outcome in outcomes:
        picture = outcome.case.picture
        expected = None
        if picture:
            small = min(picture.size)
            expected = fitted(picture, FINE_SIZE, small) if small > FINE_SIZE else np.asarray(picture)
        if text := complaint(outcome, expected, outcome.case.codes, slack=1):
            wrong[outcome.case.name] = text
    check(outcomes, wrong)


def test_nothing_reencoded(gallery: Mapping[str, Case], tmp_path: Path) -> None:
    """Whatever came is stored, byte by byte; sizes are upright where there are some."""
    outcomes = run(gallery, tmp_path, "--disable_all_reencoding")
    wrong = {}
    for outcome in outcomes:
        case, row = outcome.case, outcome.row
        size = (row["original_width"], row["original_height"])
        if not case.body:
            if outcome.code != "empty_body":
                wrong[case.name] = outcome.code
        elif outcome.data != case.body:
            wrong[case.name] = f"{outcome.code}, not kept as it came"
        elif case.codes == {SUCCESS} and case.size and size not in (case.size, (None, None)):
            wrong[case.name] = f"{size} in place of {case.size}"
    check(outcomes, wrong)


def test_allow_truncated(gallery: Mapping[str, Case], tmp_path: Path) -> None:
    """What is whole comes out as before; what is damaged may come out, and of a picture cut in half the first half."""
    options = ["--allow_truncated", "--resize_mode=no", "--encode_format=png", "--encode_quality=1"]
    outcomes = run(gallery, tmp_path, *options)
    wrong, whole = {}, {case.name: case.picture for case in cases()}
    rescued = []
    for outcome in outcomes:
        case = outcome.case
        expected = np.asarray(case.picture) if case.picture else None
        if text := complaint(outcome, expected, case.rescued or case.codes, slack=0):
            wrong[case.name] = text
        picture = whole.get(case.name.removeprefix("half_"))
        if outcome.code == SUCCESS and case.name.startswith("half_") and picture is not None:
            rescued.append(case.name)
            third = slice(-64, None) if "bmp" in case.name else slice(64)  # a BMP begins at the bottom
            coarse = "progressive" in case.name or "interlaced" in case.name
            if not coarse and difference(outcome.pixels[third], np.asarray(picture)[third]) > 20:
                wrong[case.name] = "not even a third of it is there"
    check(outcomes, wrong)
    assert {"half_jpeg_baseline", "half_jpeg_progressive", "half_png_rgb8"} <= set(rescued)


def test_skip_reencode(gallery: Mapping[str, Case], tmp_path: Path) -> None:
    """Bytes are kept only where every reader sees in them what we would have stored."""
    options = ["--skip_reencode", "--resize_mode=keep_ratio_largest", "--image_size=6000", "--resize_only_if_bigger"]
    outcomes = run(gallery, tmp_path, *options)
    wrong, kept = {}, set()
    for outcome in outcomes:
        expected = np.asarray(outcome.case.picture) if outcome.case.picture else None
        thin = outcome.case.size is not None and min(outcome.case.size) == 1
        if text := complaint(outcome, expected, outcome.case.codes, slack=100 if thin else 8):
            wrong[outcome.case.name] = text
        if outcome.data == outcome.case.body:
            kept.add(outcome.case.name)
    check(outcomes, wrong)
    assert {"jpeg_baseline", "jpeg_progressive", "jpeg_411", "jpeg_grey", "exif_jpeg_1", "icc_srgb"} <= kept
    assert not kept & {f"exif_jpeg_{number}" for number in range(2, 9)}


# the picture


def show(outcomes: list[Outcome], wrong: Mapping[str, str], folder: Path) -> None:
    """Write the contact sheet."""
    entries = [entry(outcome, wrong) for outcome in outcomes]
    good = sum(outcome.code == SUCCESS for outcome in outcomes)
    title = f"{len(outcomes)} files: every format, every defect"
    subtitle = (
        f"{good} became pictures, {len(outcomes) - good} were refused with a reason, {len(wrong)} not as they should "
        "be. Left: what another decoder shows of the file, else how it begins. Right: what img2dataset-dist stores by default."
    )
    target = Path(os.environ.get("GALLERY") or folder / "sheet")
    Sheet(title=title, subtitle=subtitle, entries=entries).write(target)
    assert (target / "gallery.png").stat().st_size < 600_000


def entry(outcome: Outcome, wrong: Mapping[str, str]) -> Entry:
    case = outcome.case
    seen = views(case.body) if SUCCESS in case.codes else glimpse(case.body) if case.rescued else ()
    size = ""
    if outcome.code == SUCCESS:
        size = f"{outcome.row['original_width']} x {outcome.row['original_height']}"
    return Entry(
        name=case.name,
        group=case.group,
        note=wrong.get(case.name, case.note),
        before=Image.fromarray(seen[0]) if seen else None,
        head="".join(chr(byte) if 32 <= byte < 127 else "." for byte in case.body[:40]),
        after=Image.fromarray(outcome.pixels) if outcome.code == SUCCESS else None,
        said=outcome.code,
        size=size,
        fine=case.name not in wrong,
    )
