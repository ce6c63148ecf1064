"""One call of ffmpeg: what it may take, how it ends, what it says. All with the real one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import alive, below, wait_for
from support.videos import gallery

from img2dataset_dist.errors import ConfigError, DecodeError, FfmpegError, TooLarge, TransformTimeout
from img2dataset_dist.ffmpeg import binary
from img2dataset_dist.ffmpeg.run import Bounds, run

FFMPEG = binary.locate(None)
PLENTY = Bounds(seconds=60, memory=2**31)
FOREVER = ["-re", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25", "-f", "null", "-"]


def children() -> list[str]:
    return [command for command in below(os.getpid()).values() if "testsrc2" in command or "ffmpeg" in command]


def test_a_call_makes_its_file(tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    run(FFMPEG, ["-f", "lavfi", "-i", "sine=duration=1", f"file:{out}"], PLENTY)
    assert out.stat().st_size > 80_000


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    sine = ["-f", "lavfi", "-i", "sine=duration=10", f"file:{out}"]
    with pytest.raises(TooLarge, match="max_body_bytes"):
        run(FFMPEG, sine, Bounds(seconds=60, memory=2**31, file=300_000))
    assert out.stat().st_size <= 300_000
    run(FFMPEG, sine, Bounds(seconds=60, memory=2**31, file=1_000_000))
    assert out.stat().st_size > 800_000


def test_one_that_catches_the_signal_has_made_too_much_all_the_same(tmp_path: Path) -> None:
    script = tmp_path / "my-ffmpeg"
    script.write_text("#!/bin/sh\ntrap '' XFSZ\nhead -c 300000 /dev/zero > \"$0.out\"\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(TooLarge):
        run(str(script), [], Bounds(seconds=60, memory=2**31, file=100_000))


def test_at_the_deadline_it_is_ended_and_nothing_is_left() -> None:
    began = time.monotonic()
    with pytest.raises(TransformTimeout, match="ffmpeg_timeout"):
        run(FFMPEG, FOREVER, Bounds(seconds=0.7, memory=2**31))
    assert 0.6 < time.monotonic() - began < 5
    assert children() == []


def test_at_the_deadline_its_whole_group_is_ended(tmp_path: Path) -> None:
    """An ffmpeg of the user's may be a script, with the real one below it."""
    script = tmp_path / "my-ffmpeg"
    script.write_text(f'#!/bin/sh\n{FFMPEG} "$@" &\nwait\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(TransformTimeout):
        run(str(script), FOREVER, Bounds(seconds=0.7, memory=2**31))
    wait_for(lambda: children() == [], 10, "both to end")


def test_one_that_closes_its_mouth_and_goes_on_is_ended_too(tmp_path: Path) -> None:
    script = tmp_path / "my-ffmpeg"
    script.write_text("#!/bin/sh\nexec 2>&-\nexec sleep 1000\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    began = time.monotonic()
    with pytest.raises(TransformTimeout):
        run(str(script), [], Bounds(seconds=0.5, memory=2**31))
    assert time.monotonic() - began < 5


def test_it_dies_with_the_process_that_started_it() -> None:
    code = (
        "import sys\nfrom img2dataset_dist.ffmpeg.run import Bounds, run\n"
        f"run({FFMPEG!r}, {FOREVER!r}, Bounds(seconds=600, memory=2**31))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    [pid] = wait_for(lambda: list(below(parent.pid)) if "testsrc2" in str(below(parent.pid)) else None, 30)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not alive(pid), 10, "ffmpeg to end")


def test_memory_is_bounded() -> None:
    """Eight pictures of 48 MB, all of which are kept. At its bound ffmpeg ends, and reports success."""
    arguments = ["-f", "lavfi", "-i", "testsrc=size=4000x4000:rate=1:duration=8", "-vf", "reverse", "-f", "null", "-"]
    run(FFMPEG, arguments, PLENTY)
    with pytest.raises(FfmpegError, match="max_transform_memory"):
        run(FFMPEG, arguments, Bounds(seconds=60, memory=300 * 2**20))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["-f", "mov", "-i", "{noise}", "-f", "null", "-"], DecodeError, "moov atom not found|Invalid data found"),
        (["-f", "mov", "-i", "{folder}/none.mp4", "-f", "null", "-"], FfmpegError, "No such file or directory"),
        (["-f", "mov", "-i", "{moov_first}", "-c:v", "nonsense", "-f", "null", "-"], FfmpegError, "nonsense"),
        (["-f", "mov", "-i", "{silent}", "-map", "0:a", "-f", "null", "-"], FfmpegError, "matches no streams"),
    ],
)
def test_its_errors_are_short_and_without_paths(arguments: list[str], error: type, message: str) -> None:
    media = gallery()
    names = {"folder": str(media.folder), **{name: str(media(name)) for name in ("noise", "moov_first", "silent")}}
    with pytest.raises(error, match=message) as caught:
        run(FFMPEG, [each.format(**names) for each in arguments], PLENTY)
    said = str(caught.value)
    assert str(media.folder) not in said
    assert "0x" not in said
    assert "\n" not in said
    assert len(said) <= 200
    with pytest.raises(error) as again:
        run(FFMPEG, [each.format(**names) for each in arguments], PLENTY)
    assert str(again.value) == said, "the same trouble has the same message"


def test_an_end_by_a_signal_is_said(tmp_path: Path) -> None:
    script = tmp_path / "my-ffmpeg"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(FfmpegError, match="SIGSEGV"):
        run(str(script), [], PLENTY)


def test_a_flood_of_errors_is_not_kept(tmp_path: Path) -> None:
    script = tmp_path / "my-ffmpeg"
    script.write_text("#!/bin/sh\nyes 'one more error' | head -n 1000000 >&2\necho 'the last one' >&2\nexit 3\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(FfmpegError, match=r"^the last one$"):
        run(str(script), [], PLENTY)


def test_the_ffmpeg_of_the_wheel_is_used_whatever_its_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    binary.locate.cache_clear()
    assert binary.locate(None) == FFMPEG
    assert "imageio_ffmpeg" in FFMPEG


def test_another_ffmpeg_can_be_chosen_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffmpeg-of-mine").symlink_to(FFMPEG)
    assert binary.locate(str(tmp_path / "ffmpeg-of-mine")) == str(tmp_path / "ffmpeg-of-mine")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binary.locate("ffmpeg-of-mine") == str(tmp_path / "ffmpeg-of-mine")


def test_one_that_is_not_there_or_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such program"):
        binary.locate(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no ffmpeg that runs here"):
        binary.locate("/bin/false")
    with pytest.raises(ConfigError, match="no ffmpeg that runs here"):
        binary.locate("/bin/echo")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF" + bytes(100))
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match="cannot be run"):
        binary.locate(str(broken))


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is such a card")
def test_nvidia_without_a_card_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"hardware='nvidia': h264_nvenc does not work here"):
        binary.check_nvidia(FFMPEG, "h264_nvenc")
