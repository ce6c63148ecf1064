"""The open web, as far as one machine can play it: slow hosts, URLs that hang, drip, fail and reset.

img2dataset_dist and img2dataset take turns on the same list from `wild_server.py`, with the same options and under the
same time limit; what the limit ends is ended with all its processes, and only rows in shards that have a receipt count.
The server's plan says what must come out of every URL, and our rows are held against it one by one.

The goal: wall < deadline + 1.3 x rows / rate. The deadline is that of a row with all its tries. The rate is measured in
each turn, by a run of ours with the same options over the well-behaved URLs of the same list alone.
docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import contenders
import corpus
import limited
import pyarrow.parquet as pq
import run
import wild_server
from contenders import OURS, PEER

OUT = run.OUT
URLS = 4000
SHARD = 1000
TIMEOUT = 10
RETRIES = 1
SLACK = 1.3
PLANNED = {
    wild_server.PICTURE: {"success"},
    "busy": {"success"},
    "missing": {"http_404"},
    "reset": {"reset"},
    "hang": {"timeout_first_byte"},
    "drip": {"timeout_total", "timeout_idle"},
}
"""What must come of each kind of URL: success, or an error_code. Two clocks of 10 s end a drip, either may be first.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What both are asked to do; both take these names."""

    processes_count: int
    thread_count: int
    timeout: int = TIMEOUT
    retries: int
    number_sample_per_shard: int
    image_size: int = 256
    output_format: str = "webdataset"
    input_format: str = "txt"

    def flags(self) -> list[str]:
        """The options as command-line flags."""
        return [f"--{name}={getattr(self, name)}" for name in self.__dataclass_fields__]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came out of one run.

    Attributes:
        committed, successes: rows in shards that have a receipt, and those of them that have a picture.
        how: exit code or limit.
        account: kind of URL and what came of it, to the number of rows; ours only.
        wrong: rows that are missing, double, or not as planned; ours only.
        asked: requests that came to the server, by kind of URL.
        sent: seconds after the start at which the server had sent each picture.
    """

    rows: int
    committed: int
    successes: int
    wall: float
    cpu: float
    peak_mb: float
    how: str
    account: dict[str, int]
    wrong: list[str]
    asked: dict[str, int]
    sent: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured."""

    options: Options
    pictures: Path
    urls: int
    limit: float

    def once(self, contender: contenders.Contender, *, well_behaved: bool = False) -> Result:
        """One run with a server of its own; over the well-behaved URLs alone, or over all."""
        work = OUT / f"open-web-{contender.name}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        with wild_server.serve(self.pictures) as server:
            urls = server.urls(self.urls)
            if well_behaved:
                urls = [url for url in urls if kind(url) == wild_server.PICTURE]
            (work / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
            command = [*contender.command, f"--url_list={work / 'urls.txt'}", f"--output_folder={work / 'out'}"]
            command += self.options.flags()
            environment = contenders.environment(Path(certifi.where()))
            start = time.monotonic()
            ended = limited.execute(command, work, environment, seconds=self.limit)
            report = server.report()
        if contender.name == OURS and ended.code != 0:
            raise SystemExit(f"{OURS}: {ended.how}; {work / 'log.txt'} says why")
        committed, successes, _ = contenders.receipts(work / "out")
        account, wrong = audit(work / "out", urls, self.options.retries) if contender.name == OURS else ({}, [])
        return Result(
            rows=len(urls), committed=committed, successes=successes, wall=round(ended.wall, 2),
            cpu=round(ended.cpu, 2), peak_mb=round(ended.peak_mb), how=ended.how, account=account, wrong=wrong,
            asked=report["requests"], sent=[round(moment - start, 2) for moment in report["sent"]],
        )  # fmt: skip

    def goal(self, result: Result, calm: Result) -> dict[str, float]:
        """The wall time allowed, and what there was; `slots` is what the waits alone must take."""
        rate = calm.rows / calm.wall
        allowed = self.deadline + SLACK * result.rows / rate
        return {
            "rate": round(rate, 1), "allowed": round(allowed, 2), "wall": result.wall,
            "ratio": round(result.wall / allowed, 3), "slots": round(self.slot_seconds(), 1),
        }  # fmt: skip

    @property
    def deadline(self) -> float:
        """Seconds that one row may take in all: `timeout` for each try, and the longest waits between them."""
        waits = sum(1.5 * 2.0**retry for retry in range(self.options.retries))
        return self.options.timeout * (self.options.retries + 1) + waits

    def slot_seconds(self) -> float:
        """Seconds for which the planned waits keep all transfers that may be in flight busy; CPU comes on top."""
        total, tries = 0.0, self.options.retries + 1
        for number in range(self.urls):
            what = wild_server.nature(wild_server.HOSTS[number % len(wild_server.HOSTS)], wild_server.path(number))
            often = {"hang": tries, "drip": tries, "reset": tries, "busy": min(2, tries)}.get(what.kind, 1)
            total += often * (self.options.timeout if what.kind in ("hang", "drip") else what.wait)
        return total / (self.options.thread_count * self.options.processes_count)


def kind(url: str) -> str:
    """What a URL of the list does."""
    parts = urlsplit(url)
    return wild_server.nature(parts.hostname or "", parts.path).kind


def audit(folder: Path, urls: list[str], retries: int) -> tuple[dict[str, int], list[str]]:
    """Hold every row of our dataset against the plan: how many there are of what, and those that are wrong."""
    plan = PLANNED if retries else {**PLANNED, "busy": {"http_503"}}
    seen: Counter[str] = Counter()
    account: Counter[str] = Counter()
    wrong = []
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["url", "status", "error_code"])
        for url, status, code in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
            came, planned = ("success" if status == "success" else str(code)), plan[kind(url)]
            seen[url] += 1
            account[f"{kind(url)}: {came}"] += 1
            if came not in planned:
                wrong.append(f"{url}: planned {' or '.join(planned)}, came {came}")
    wrong += [f"{url}: no row" for url in urls if url not in seen]
    wrong += [f"{url}: {count} rows" for url, count in seen.items() if count > 1]
    wrong += [f"{url}: not in the list" for url in sorted(set(seen) - set(urls))]
    return dict(sorted(account.items())), wrong


def main() -> None:
    """Parse the flags and do everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns (%(default)s)")
    parser.add_argument("--urls", type=int, default=URLS, help="length of the list (%(default)s)")
    parser.add_argument("--threads", type=int, default=256, help="thread_count of both (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes_count of both (%(default)s)")
    parser.add_argument("--retries", type=int, default=RETRIES, help="retries of both (%(default)s)")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a run may take (%(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="without img2dataset; draws no plot")
    parser.add_argument("--name", default="open-web", help="of the results (%(default)s); another one draws no plot")
    flags = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    pictures = corpus.make(OUT, run.FILES)
    options = Options(
        processes_count=flags.processes, thread_count=flags.threads, retries=flags.retries,
        number_sample_per_shard=SHARD,
    )  # fmt: skip
    bench = Bench(options=options, pictures=pictures.folder, urls=flags.urls, limit=flags.limit)
    both = [contenders.ours()] if flags.no_peer else [contenders.ours(), contenders.peer(OUT)]
    planned = Counter(
        wild_server.nature(wild_server.HOSTS[i % len(wild_server.HOSTS)], wild_server.path(i)).kind
        for i in range(flags.urls)
    )
    result: dict[str, Any] = {
        "machine": run.machine(), "load_before": os.getloadavg()[0], "options": asdict(options), "limit": flags.limit,
        "versions": {each.name: dict(each.versions) for each in both}, "planned": dict(planned), "urls": flags.urls,
    }  # fmt: skip
    print(heading(result))
    result |= measure(bench, both, flags.runs)
    print(table(result))
    written = OUT / f"{flags.name}.json"
    written.write_text(json.dumps(result) + "\n")
    print(f"written to {written.relative_to(run.HERE.parent)}")
    if not flags.no_peer and flags.name == "open-web":
        run.draw(written, run.PLOT.with_name("performance-open-web.png"), script="plot_web.py")


def measure(bench: Bench, both: list[contenders.Contender], runs: int) -> dict[str, Any]:
    """All turns: ours over the well-behaved URLs, ours over all, the peer over all."""
    calm, goals = [], []
    results: dict[str, list[Result]] = {each.name: [] for each in both}
    for turn in range(1, runs + 1):
        calm.append(bench.once(both[0], well_behaved=True))
        print(line(turn, f"{OURS}, well-behaved URLs", calm[-1]), flush=True)
        for each in both:
            result = bench.once(each)
            results[each.name].append(result)
            print(line(turn, each.name, result), flush=True)
            if each.name == OURS:
                goals.append(bench.goal(result, calm[-1]))
                print("\n".join(verdict(result, goals[-1], bench)), flush=True)
            os.sync()  # its files must not be written out during the next run
    return {
        "calm": [asdict(each) for each in calm],
        "goals": goals,
        "runs": {name: [asdict(each) for each in found] for name, found in results.items()},
    }


def line(turn: int, name: str, result: Result) -> str:
    """One run."""
    return (
        f"  run {turn} {name:35} {result.committed} of {result.rows} rows committed, {result.successes} successes, "
        f"{result.wall:.1f} s, {result.cpu:.1f} s CPU, {result.peak_mb:.0f} MB, {result.how}"
    )


def verdict(result: Result, goal: dict[str, float], bench: Bench) -> list[str]:
    """The account of one run of ours, and its goal."""
    lines = ["        " + ", ".join(f"{what} {count}" for what, count in result.account.items())]
    lines.append(f"        {len(result.wrong)} rows are not as planned" + "".join(f"\n          {w}" for w in
                 result.wrong[:10]))  # fmt: skip
    word = "PASS" if goal["ratio"] < 1 else "FAIL"
    lines.append(
        f"        goal {word}: {goal['wall']:.1f} s of {goal['allowed']:.1f} s = {bench.deadline:.1f} + {SLACK} x "
        f"{result.rows} rows / {goal['rate']:.0f} per second; ratio {goal['ratio']:.2f} "
        f"(the waits alone fill all slots for {goal['slots']:.1f} s)"
    )
    return lines


def heading(result: dict[str, Any]) -> str:
    """What is compared, and where."""
    lines = [
        "machine    {cpu}, {cores} cores, {memory_gb} GB, {system}, Python {python}".format(**result["machine"]),
        f"list       {result['urls']} URLs on {len(wild_server.HOSTS)} hosts: "
        + ", ".join(f"{count} {name}" for name, count in sorted(result["planned"].items())),
        f"waits      lognormal, median {wild_server.MEDIAN} s, sigma {wild_server.SIGMA}",
        "options    " + " ".join(f"{name}={value}" for name, value in result["options"].items()),
    ]
    if result["load_before"] > run.BUSY * result["machine"]["cores"]:
        lines.append(f"NOTE       the machine is busy already (load {result['load_before']:.2f}): expect noise")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown tables: median [least..most]."""
    lines = ["", "| | rows committed | successes | seconds | CPU seconds | peak MB of a process | ended |"]
    lines.append("|---|---|---|---|---|---|---|")
    named = [(OURS, result["runs"][OURS]), (PEER, result["runs"].get(PEER, []))]
    for name, runs in [*named, (f"{OURS}, the well-behaved URLs alone", result["calm"])]:
        if runs:
            cells = [
                f"{cell((each['committed'] for each in runs), 0)} of {runs[0]['rows']}",
                *(cell((each[what] for each in runs), digits)
                  for what, digits in (("successes", 0), ("wall", 1), ("cpu", 1), ("peak_mb", 0))),
                ", ".join(sorted({each["how"] for each in runs})),
            ]  # fmt: skip
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| goal | seconds | allowed | ratio | passed | rows not as planned |", "|---|---|---|---|---|---|"]
    goals = result["goals"]
    cells = [
        cell((goal[what] for goal in goals), digits) for what, digits in (("wall", 1), ("allowed", 1), ("ratio", 2))
    ]
    passed = f"{sum(goal['ratio'] < 1 for goal in goals)} of {len(goals)}"
    wrong = cell((len(each["wrong"]) for each in result["runs"][OURS]), 0)
    return "\n".join(
        [*lines, f"| wall < deadline + {SLACK} x rows / rate | {' | '.join(cells)} | {passed} | {wrong} |", ""]
    )


def cell(values: Iterable[float], digits: int) -> str:
    """Median [least..most]; one number when all are the same."""
    figures = run.spread(values)
    middle, least, most = (f"{figures[name]:.{digits}f}" for name in ("median", "min", "max"))
    return middle if least == most else f"{middle} [{least}..{most}]"


if __name__ == "__main__":
    main()
