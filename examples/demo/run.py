"""`make demo`: a list of URLs becomes a dataset, before your eyes and on this machine alone.

    python examples/demo/run.py

Fetches real photographs once, serves pictures cut from them on 127.0.0.1, downloads them with img2dataset-dist from a
list with a dozen honest failures in it, draws a contact sheet of the dataset and reads it back. All files are in
./demo. The exit code is 0 only when the dataset is what it should be.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from photos import NoPhotographsError, obtain
from pictures import make_site

HERE = Path(__file__).resolve().parent
DEMO = Path("demo")
COLUMNS = ["key", "status", "width", "height", "original_width", "original_height", "error_message", "url"]


class DemoFailedError(Exception):
    """A step did not do what it should; the message says which and what."""


def step(text: str) -> None:
    """Announce what comes next."""
    print(f"\n== {text}", flush=True)


@contextlib.contextmanager
def serving(site: Path) -> Iterator[int]:
    """Run the web server of the demo; gives its port."""
    command = [sys.executable, str(HERE / "server.py"), str(site)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise DemoFailedError("the web server did not start")
        yield int(line)
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def failures(port: int) -> list[str]:
    """URLs that cannot become pictures, each for a reason that real lists have."""
    root = f"http://127.0.0.1:{port}"
    return [
        *(f"{root}/moved_{number}.jpg" for number in range(4)),
        *(f"{root}/forbidden/{number}.jpg" for number in range(2)),
        *(f"{root}/login.html?for={number}.jpg" for number in range(3)),
        *(f"{root}/broken.jpg?copy={number}" for number in range(2)),
        f"{root}/private/picture_000.jpg",
    ]


def write_list(path: Path, names: list[str], port: int) -> int:
    """Write the URL list, shuffled; returns how many URLs are to fail."""
    bad = failures(port)
    urls = [f"http://127.0.0.1:{port}/{name}?utm_source=demo" for name in names] + bad
    random.Random(0).shuffle(urls)
    path.write_text("".join(f"{url}\n" for url in urls))
    print(f"{len(urls)} URLs in {path}: {len(names)} pictures, {len(bad)} that are bound to fail")
    return len(bad)


def tool() -> str:
    """Path of the img2dataset-dist command, that of this Python first."""
    beside = Path(sys.executable).with_name("img2dataset-dist")
    found = str(beside) if beside.exists() else shutil.which("img2dataset-dist")
    if found is None:
        raise DemoFailedError(f"there is no img2dataset-dist beside {sys.executable}: pip install -e .")
    return found


def run(*arguments: str) -> None:
    """Print and run an img2dataset-dist command with our terminal."""
    print("$ img2dataset-dist", *arguments, flush=True)
    done = subprocess.run([tool(), *arguments], stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise DemoFailedError(f"img2dataset-dist ended with exit code {done.returncode}")


def download(url_list: Path, dataset: Path) -> None:
    """Turn the list into a dataset, with the command that a user would give."""
    run(
        f"--url_list={url_list}",
        "--allow_private_addresses",  # the pictures come from a server on this machine
        f"--output_folder={dataset}",
        "--output_format=webdataset",
        "--image_size=256",
        "--resize_mode=keep_ratio",
        "--number_sample_per_shard=100",
    )


def read_rows(dataset: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Metadata of all rows of all shards."""
    return pq.read_table(sorted(dataset.glob("*.parquet")), columns=columns).to_pylist()


def check(dataset: Path, good: int, bad: int) -> None:
    """Every URL must have one row, and exactly the bad ones must have failed."""
    rows = read_rows(dataset, ["url", "status", "error_code"])
    statuses = Counter("success" if row["status"] == "success" else "failed" for row in rows)
    if statuses != Counter(success=good, failed=bad) or len({row["url"] for row in rows}) != good + bad:
        wrong = [row for row in rows if (row["status"] == "success") != ("utm_source" in row["url"])][:5]
        raise DemoFailedError(f"expected {good} pictures and {bad} failures, got {dict(statuses)}; {wrong}")
    if not list(dataset.glob("*.tar")):
        raise DemoFailedError(f"there is no tar in {dataset}")
    causes = Counter(row["error_code"] for row in rows if row["status"] != "success")
    print(f"{good} pictures and {bad} failures, as it should be: {dict(sorted(causes.items()))}")


def show_use(dataset: Path) -> None:
    """How to load the result; the pyarrow lines are run."""
    shards = sorted(path.name for path in dataset.glob("*.tar"))
    braces = f"{dataset}/{{{shards[0][:-4]}..{shards[-1][:-4]}}}.tar"
    print(f"""To train on it (pip install webdataset):

    import webdataset as wds
    samples = wds.WebDataset("{braces}", shardshuffle=False).decode("rgb").to_tuple("jpg", "json")
    for picture, row in samples: ...

To look at its rows, the failed ones too:

    import glob, pyarrow.parquet as pq
    table = pq.read_table(sorted(glob.glob("{dataset}/*.parquet")), columns={COLUMNS})
    for row in table.slice(0, 3).to_pylist(): print(row)
""")
    for row in read_rows(dataset, COLUMNS)[:3]:
        print(row)


def demo() -> None:
    """All steps in order."""
    DEMO.mkdir(exist_ok=True)
    url_list, dataset, sheet = DEMO / "urls.txt", DEMO / "dataset", DEMO / "contact_sheet.jpg"
    step("Real photographs")
    photographs = obtain(DEMO / "photos")
    names = make_site(photographs, DEMO / "site")
    print(f"{len(names)} distinct pictures made of them are in {DEMO / 'site'}")
    shutil.rmtree(dataset, ignore_errors=True)
    sheet.unlink(missing_ok=True)
    with serving(DEMO / "site") as port:
        step("A list of their URLs on a web server of this machine")
        bad = write_list(url_list, names, port)
        step("The download")
        started = time.monotonic()
        download(url_list, dataset)
        print(f"took {time.monotonic() - started:.1f} s, start of Python included")
    step("Is it what it should be?")
    check(dataset, len(names), bad)
    step("A look at it")
    run("preview", str(dataset), str(sheet))
    if not sheet.exists():
        raise DemoFailedError(f"there is no {sheet}")
    step("How to use it")
    show_use(dataset)
    print(f"\nThe demo went well. See {sheet}, the dataset in {dataset} and the list {url_list}.")


def main() -> int:
    """Run the demo; the exit code."""
    try:
        demo()
    except (DemoFailedError, NoPhotographsError) as error:
        print(f"\nThe demo FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
