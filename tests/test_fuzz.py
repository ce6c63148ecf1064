"""Thousands of damaged pictures: no crash, no hang, no lost row, no surprise, and memory that stays within bounds.

FUZZ=20000 pytest tests/test_fuzz.py       more of them; what is found is kept in FUZZ_FOLDER, else below tmp_path
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import dataset
from support.fuzzing import EXPECTED, Trial, lengths, mended, mutant, originals
from support.gallery import cases
from support.photos import url_list
from support.server import HOSTS, NastyServer

COUNT = int(os.environ.get("FUZZ", "5000"))
JOB = 300
MOST_MIB = 2048
BASE_MIB, BOMB_MIB, BOMB_SECONDS = 150, 300, 5
TESTS = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where what is found goes."""
    return Path(os.environ.get("FUZZ_FOLDER") or tmp_path / "findings")


def test_mutants_are_always_the_same_and_of_all_kinds() -> None:
    names = [mutant(number)[0].split("-") for number in range(2000)]
    assert {name for _, name, _ in names} == {name for name, _ in originals()}
    assert {damage for _, _, damage in names} == {"truncated", "flipped", "spliced", "numbered", "relengthed"}
    assert len({mutant(number)[1] for number in range(500)}) > 480
    assert mutant(77) == mutant(77)


def test_lengths_are_found_and_checksums_mended() -> None:
    for name, body in originals():
        found = list(lengths(body))
        assert bool(found) == name.startswith(("jpeg", "png", "webp", "avif", "heic", "tiff", "jp2")), name
        assert all(0 <= start <= len(body) - size for start, size, _ in found), name
        if name.startswith("png"):
            assert mended(body) == body


@pytest.mark.slow
@pytest.mark.timeout(60 + COUNT)
def test_no_crash_no_hang_no_surprise(folder: Path) -> None:
    """All through the transforms in one process, so that one that dies is known by its number."""
    done = Trial(count=COUNT, folder=folder).run()
    assert not done.crashes, "\n".join(done.crashes)
    assert not done.bugs, "\n".join(done.bugs)
    assert not done.slow, "\n".join(done.slow)
    assert done.codes.total() == 2 * COUNT
    assert done.codes.keys() <= EXPECTED
    assert done.codes["success"] > COUNT / 4, "most of the damage is light"
    assert done.codes["decode_error"] > COUNT / 4
    assert done.peak_mib < MOST_MIB, "\n".join(done.large)


@pytest.mark.slow
def test_bombs_are_light(tmp_path: Path) -> None:
    """What the gallery calls a bomb is refused, or left aside, before it takes memory or time."""
    for case in cases():
        if case.group == "bombs":
            (tmp_path / case.file).write_bytes(case.body)
    command = [sys.executable, "-m", "support.fuzzing", "weigh", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 20
    before, heavy = BASE_MIB, []
    for name, code, peak, seconds in lines:
        if peak > before + BOMB_MIB or seconds > BOMB_SECONDS:
            heavy.append(f"{name}: {code}, {before} to {peak} MiB, {seconds:.1f} s")
        before = max(before, peak)
    assert not heavy, "\n".join(heavy)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [[], ["--allow_truncated", "--resize_mode=no", "--encode_format=png", "--encode_quality=1"]]
)
def test_no_row_is_lost(tmp_path: Path, options: list[str]) -> None:
    """Some of them through the real command."""
    photos = tmp_path / "photos"
    photos.mkdir()
    names = []
    for number in range(COUNT, COUNT + JOB):
        name, body = mutant(number)
        names.append(f"{name}.jpg")
        (photos / names[-1]).write_bytes(body)
    with NastyServer(photos) as server:
        urls = [server.url(f"/photo/{name}", HOSTS[index % 3]) for index, name in enumerate(names)]
        url_list(tmp_path / "urls.txt", urls)
        command = [sys.executable, "-m", "img2dataset_dist", "urls.txt", "--output_folder=out", "--processes_count=2"]
        command += ["--output_format=webdataset", "--number_sample_per_shard=100", "--progress=none"]
        command += ["--allow_private_addresses", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    out = tmp_path / "out"
    dataset.check_whole(out)
    rows = dataset.rows(out)
    assert sorted(row["url"] for row in rows.values()) == sorted(urls), "rows are conserved"
    codes = Counter(row["error_code"] or "success" for row in rows.values())
    assert codes.keys() <= EXPECTED, codes
    stored = {name.partition(".")[0] for name in dataset.media(out)}
    assert stored == {key for key, row in rows.items() if row["status"] == "success"}
