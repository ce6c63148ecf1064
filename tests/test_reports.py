"""What people see: the bar, the plain lines, the table, and Weights & Biases."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.server import NastyServer

from img2dataset_dist import Stats, download
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Failure, FetchFacts, Item, Notice, Progress, Receipt, Sample, ShardFailure
from img2dataset_dist.reports import JobStart
from img2dataset_dist.reports.console import ConsoleReport, duration
from img2dataset_dist.stats import MAX_MESSAGES, Tally, receipt_from_json, receipt_to_json


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(mode: str, clock: Clock, *, terminal: bool = False) -> tuple[ConsoleReport, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    config = JobConfig.from_flat({"url_list": "x", "progress": mode})
    return ConsoleReport(config, console=console, clock=clock), out


def stats(count: int, bad: int = 0) -> Stats:
    return Stats(
        count=count, successes=count - bad, failed_to_download=bad, bytes_downloaded=count * 1000,
        bytes_stored=count * 100, start_time=1, end_time=2, messages={"success": count - bad, "HTTP status 404": bad},
        codes={"http_404": bad} if bad else {},
    )  # fmt: skip


def play(shown: ConsoleReport, clock: Clock) -> None:
    shown.start(JobStart(output="/data/out", done=3, notes=("mind the gap",)))
    shown.total(1000)
    for _ in range(30):
        clock.now += 1
        shown.event(Progress(stats=stats(20, 2)))
    shown.event(Receipt(shard_id=0, stats=stats(600, 60), attempt="a", fingerprint="f"))
    shown.event(ShardFailure(shard_id=7, error="OSError: No space left on device"))
    shown.finish(stats(600, 60), {7: "OSError: No space left on device"})


def test_plain_lines_when_not_a_terminal() -> None:
    clock = Clock()
    shown, out = report("auto", clock)
    play(shown, clock)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "Writing to /data/out" in text
    assert "3 shard(s) are done already" in text
    assert "Note: mind the gap" in text
    line = next(line for line in text.splitlines() if line.startswith("200/1,000 rows"))
    assert "20 rows/s" in line
    assert "90.0% ok" in line
    assert "ETA 40.0 s" in line
    assert "failures: http_404 10.0%" in line
    assert "Shard 7 failed: OSError: No space left on device" in text


def test_what_to_do_is_said_when_many_rows_share_a_failure() -> None:
    for bad, said in ((50, True), (5, False)):
        shown, out = report("plain", Clock())
        shown.start(JobStart(output="/data/out", done=0))
        shown.event(Notice(text="network: back after 3 s; going on"))
        totals = replace(stats(1000, bad), codes={"blocked_address": bad})
        shown.finish(totals, {})
        assert ("--allow_private_addresses" in out.getvalue()) is said
        assert "network: back after 3 s" in out.getvalue()


def test_the_final_table_tells_the_truth() -> None:
    clock = Clock()
    shown, out = report("plain", clock)
    play(shown, clock)
    table = out.getvalue().partition("img2dataset-dist")[2]
    rows = {
        cells[0].strip(): [c.strip() for c in cells[1:]]
        for line in table.splitlines()
        if len(cells := line.strip("│").split("│")) == 3
    }
    assert rows["rows"][0] == "600"
    assert rows["success"] == ["540", "90.0%"]
    assert rows["http_404"] == ["60", "10.0%"]
    assert rows["shards failed"][0] == "1"
    assert rows["shards done earlier"][0] == "3"


def test_a_live_bar_in_a_terminal() -> None:
    clock = Clock()
    shown, out = report("auto", clock, terminal=True)
    play(shown, clock)
    assert "━" in out.getvalue()


def test_none_is_silent() -> None:
    clock = Clock()
    shown, out = report("none", clock)
    play(shown, clock)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.25, "4.2 s"), (75, "0:01:15"), (3723, "1:02:03"), (360000, "100:00:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def sample(n: int, failure: Failure | None = None) -> Sample:
    item = Item(shard_id=0, index=n, key=str(n), url="u")
    return Sample(item=item, facts=FetchFacts(bytes=10), data=None if failure else b"abc", failure=failure)


def test_tally_conserves_rows_and_its_memory_is_bounded() -> None:
    tally = Tally(clock=lambda: 5.0)
    for n in range(3 * MAX_MESSAGES):
        tally.add(sample(n, Failure(code="dns", message=f"unique {n}", status="failed_to_download")))
    tally.add(sample(0))
    tally.add(sample(0, Failure(code="decode_error", message="corrupt", status="failed_to_resize")))
    total = tally.freeze()
    assert total.count == 3 * MAX_MESSAGES + 2
    assert (total.successes, total.failed_to_download, total.failed_to_resize) == (1, 3 * MAX_MESSAGES, 1)
    assert sum(total.messages.values()) == total.count
    assert len(total.messages) <= MAX_MESSAGES + 1
    assert total.bytes_stored == 3


def test_stats_add_up_in_any_order() -> None:
    a, b, c = stats(5, 1), stats(7), stats(11, 3)
    assert (a + b) + c == a + (b + c) == c + b + a
    assert a + Stats() == a
    assert (a + c).codes == {"http_404": 4}


def test_receipts_survive_json() -> None:
    receipt = Receipt(shard_id=3, stats=stats(5, 1), attempt="a", fingerprint="f", files={"00003.tar": 9})
    assert receipt_from_json(3, receipt_to_json(receipt)) == receipt
    content = json.loads(receipt_to_json(receipt))
    assert list(content)[:8] == [
        "count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time", "end_time",
        "status_dict",
    ]  # fmt: skip


def test_wandb_offline(server: NastyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's metrics, logged by the real package without a network."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: list[dict[str, Any]] = []
    real = wandb.sdk.wandb_run.Run.log

    def log(run: Any, data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        logged.append(data)
        real(run, data, *args, **kwargs)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    urls = tmp_path / "urls.txt"
    paths = ["/photo/photo_00000.jpg", "/status/404", "/html", "/photo/photo_00001.jpg"]
    urls.write_text("".join(server.url(path) + "\n" for path in paths))
    download(
        str(urls), output_folder=str(tmp_path / "out"), enable_wandb=True, number_sample_per_shard=2, image_size=32,
        output_format="dummy", distributor="inline", progress="none", allow_private_addresses=True,
    )  # fmt: skip
    total = [entry for entry in logged if "total/count" in entry][-1]
    assert total["total/count"] == 4
    assert total["total/success"] == 0.5
    assert total["total/failed_to_download"] == 0.25
    assert total["total/failed_to_resize"] == 0.25
    assert total["total/img_per_sec"] > 0
    assert sum("worker/count" in entry for entry in logged) == 2
    table = [entry["status"] for entry in logged if "status" in entry][-1]
    assert table.columns == ["status", "frequency", "count"]
    assert ["success", 0.5, 2] in table.data
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
