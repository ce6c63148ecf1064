"""The processes that run yt-dlp: they are killed, die, hang, and are never left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.site_fetching import Running, code, site_fetcher, site_processes
from support.sites import SiteServer, plugin_folder

from img2dataset_dist.errors import EngineError
from img2dataset_dist.fetchers import ytdlp_desk

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server() -> Iterator[SiteServer]:
    with SiteServer() as running:
        yield running


def plugins(folder: Path) -> dict[str, list[str]]:
    return {"plugin_dirs": [plugin_folder(folder / "plugins")]}


def wait_for(condition: object, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_process_serves_many_rows(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path) as running:
        running.fetch([server.url("/media/90p.mp4")] * 3)
        first = {process.pid for process in site_processes()}
        running.fetch([server.url("/media/90p.mp4")] * 3)
        assert {process.pid for process in site_processes()} == first
        assert len(first) == 1


@pytest.mark.slow
def test_it_is_replaced_after_many_rows(tmp_path: Path, server: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ytdlp_desk, "ROWS_PER_PROCESS", 2)
    with site_fetcher(tmp_path) as running:
        seen = set()
        for _ in range(4):
            assert running.code(server.url("/media/90p.mp4")) == "success"
            seen |= {process.pid for process in site_processes()}
        assert len(seen) == 2


@pytest.mark.slow
def test_no_more_processes_than_rows_need(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, site_processes=3) as running:
        assert not site_processes()
        running.code(server.url("/media/90p.mp4"))
        assert len(site_processes()) == 1
        running.fetch([server.url("/page/video")] * 30)
        assert 1 <= len(site_processes()) <= 3


@pytest.mark.slow
def test_a_kill_costs_no_row(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, yt_args=plugins(tmp_path), timeout=30) as running:
        running.code(server.url("/fake/ok"))
        running.submit([server.url("/drip.mp4"), server.url("/page/video")])
        wait_for(lambda: server.count("/drip.mp4") > 1)
        server.forget()
        site_processes()[0].kill()
        wait_for(lambda: server.count("/drip.mp4") > 1)  # it is tried once more
        site_processes()[0].kill()
        found = running.gather(2)
        assert [code(one) for one in found] == ["extractor_error", "success"]
        assert found[0].failure is not None
        assert "SIGKILL" in found[0].failure.message


def test_a_row_that_ends_its_process_is_blamed(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, yt_args=plugins(tmp_path)) as running:
        outcomes = running.fetch([server.url("/fake/die"), server.url("/page/video"), server.url("/fake/die")])
        assert [code(one) for one in outcomes] == ["extractor_error", "success", "extractor_error"]
        assert outcomes[0].failure is not None
        assert "SIGABRT" in outcomes[0].failure.message


@pytest.mark.slow
def test_one_that_stands_still_is_ended(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, timeout=2, yt_args=plugins(tmp_path)) as running:
        running.code(server.url("/fake/ok"))
        (process,) = site_processes()
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert running.code(server.url("/fake/ok")) == "timeout_total"
        assert time.monotonic() - began < 5
        running.submit([server.url("/fake/sleep"), server.url("/page/video")])
        assert [code(one) for one in running.gather(2)] == ["timeout_total", "success"]
        assert not process.is_running()


def test_a_file_over_the_cap_is_not_kept(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, max_body_bytes=200_000) as running:
        server.forget()
        outcome = running.one(server.url("/endless.mp4"))
        assert code(outcome) == "too_large"
        assert outcome.facts.bytes is not None
        assert outcome.facts.bytes < 400_000
        assert running.code(server.url("/media/90p.mp4")) == "success"


def test_it_ends_with_us(tmp_path: Path, server: SiteServer) -> None:
    """A worker that is killed takes its processes with it."""
    script = f"""
        import sys, time
        sys.path.insert(0, {str(TESTS)!r})
        from pathlib import Path
        from support.site_fetching import Running, EMPTY
        running = Running(Path({str(tmp_path)!r}), EMPTY, timeout=60)
        running.code({server.url("/media/90p.mp4")!r})
        running.submit([{server.url("/drip.mp4")!r}])
        print("ready", flush=True)
        time.sleep(60)
    """
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        children = psutil.Process(worker.pid).children(recursive=True)
        assert any("ytdlp_child" in " ".join(child.cmdline()) for child in children)
    finally:
        worker.kill()
        worker.wait()
    _, left = psutil.wait_procs(children, timeout=5)
    assert not left


def test_closing_does_not_wait_for_rows(tmp_path: Path, server: SiteServer) -> None:
    with site_fetcher(tmp_path, timeout=60, site_processes=2) as running:
        running.code(server.url("/media/90p.mp4"))
        running.submit([server.url("/drip.mp4")] * 5)
        wait_for(lambda: server.count("/drip.mp4") > 1)
        began = time.monotonic()
        running.fetcher.close()
        assert time.monotonic() - began < 3
        assert not site_processes()


def test_what_it_knows_of_us(tmp_path: Path, server: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with site_fetcher(tmp_path) as running:
        running.code(server.url("/media/90p.mp4"))
        (process,) = site_processes()
        environment = process.environ()
        assert "AWS_SECRET_ACCESS_KEY" not in environment
        assert environment["HOME"].startswith(running.spool.root)
        assert os.getpgid(process.pid) == process.pid
        inherited = {os.readlink(f"/proc/{process.pid}/fd/{name}") for name in os.listdir(f"/proc/{process.pid}/fd")}
        assert not [name for name in inherited if name.startswith(str(tmp_path))], "no lock of the spool's"


def test_without_yt_dlp_no_row_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "yt_dlp.py").write_text("raise ImportError('no such thing')")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    with site_fetcher(tmp_path / "spool") as running, pytest.raises(EngineError, match="no such thing"):
        running.code("https://example.org/")


def test_a_process_that_cannot_start_is_said(
    tmp_path: Path, server: SiteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_fetcher(tmp_path / "spool") as running:
        running.fetcher.claims("https://example.org/")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "yt_dlp.py").write_text("raise ImportError('no such thing')")
        monkeypatch.syspath_prepend(str(tmp_path / "broken"))
        with pytest.raises(EngineError, match="did not come up"):
            running.code(server.url("/page/video"))


def test_a_disk_without_room_costs_the_row(tmp_path: Path, server: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the folder of the row, or of its process. The thread lives on."""
    with site_fetcher(tmp_path) as running:
        folder, fails = running.spool.folder, [True, False, True]

        def full() -> str:
            if fails and fails.pop(0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return folder()

        monkeypatch.setattr(running.spool, "folder", full)
        outcomes = running.fetch([server.url("/media/90p.mp4")] * 3)
        assert sorted(code(one) for one in outcomes) == ["disk_full", "disk_full", "success"]
        assert not fails
        assert len(running.folders()) == 2, "of the file that came, and of the process"


def test_a_system_that_lets_no_process_begin(
    tmp_path: Path, server: SiteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again for a while; no row is blamed."""
    begin, refusals = subprocess.Popen, [True] * 3

    def busy(command: list[str], **how: object) -> object:
        if refusals and any("ytdlp_child" in word for word in command):
            del refusals[-1:]
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return begin(command, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", busy)
    monkeypatch.setattr(ytdlp_desk, "FORK_PAUSE", 0.01)
    with site_fetcher(tmp_path) as running:
        assert running.code(server.url("/media/90p.mp4")) == "success"
        assert not refusals
    refusals += [True] * 1000
    monkeypatch.setattr(ytdlp_desk, "FORK_SECONDS", 0.0)
    with site_fetcher(tmp_path) as running, pytest.raises(EngineError, match="temporarily unavailable"):
        running.code(server.url("/media/90p.mp4"))


def test_a_fault_of_ours_is_no_hang(tmp_path: Path, server: SiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(ytdlp_desk.Desk, "ask", broken)
    with site_fetcher(tmp_path) as running, pytest.raises(ZeroDivisionError, match="ours"):
        running.code(server.url("/media/90p.mp4"))


@pytest.mark.slow
def test_rows_are_conserved_whatever_happens(tmp_path: Path, server: SiteServer) -> None:
    paths = [
        "/page/video",
        "/fake/die",
        "/status/404",
        "/fake/bot",
        "/page/none",
        "/fake/apart",
        "/reset",
        "/fake/crash",
    ]
    with site_fetcher(
        tmp_path, site_processes=2, retries=1, site_pause=0.01, yt_args=plugins(tmp_path), timeout=20
    ) as running:
        outcomes = running.fetch([server.url(path) for path in paths * 3])
        codes = [code(one) for one in outcomes]
        for start in range(0, len(codes), len(paths)):
            found = codes[start : start + len(paths)]
            assert found[:3] == ["success", "extractor_error", "http_404"]
            assert found[6] == "reset"
            assert found[3] == "site_blocked"
        assert isinstance(running, Running)
