"""One way to fetch, measured in a process of its own: `fetch_probe.py WAY URLS_FILE IN_FLIGHT` prints JSON.

The ways: `bare`, a loop around pycurl's multi interface and nothing else; `fetcher`, our CurlFetcher alone; `peer`, the
peer's `download_image` in a pool of threads, as its downloader calls it. What is imported and set up before the first
request is not measured. Runs on the Python that has what it needs; nothing is imported that another way needs.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Sizes = Iterator[int]
"""Bytes of each body that came."""


def bare(urls: list[str], in_flight: int) -> Callable[[], Sizes]:
    """Pycurl alone, with the options that decide about speed as our fetcher has them."""
    import pycurl  # noqa: PLC0415

    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, in_flight)

    def handle() -> Any:
        new = pycurl.Curl()
        new.setopt(pycurl.NOSIGNAL, 1)
        new.setopt(pycurl.ACCEPT_ENCODING, "")
        new.setopt(pycurl.BUFFERSIZE, 2**18)
        new.setopt(pycurl.PIPEWAIT, 1)
        new.setopt(pycurl.CAINFO, os.environ["SSL_CERT_FILE"])
        return new

    def fetch() -> Sizes:
        left, bodies = iter(urls), {}
        free = [handle() for _ in range(in_flight)]
        while True:
            while free and (url := next(left, None)):
                curl, body = free.pop(), bytearray()
                bodies[curl] = body
                curl.setopt(pycurl.URL, url)
                curl.setopt(pycurl.WRITEFUNCTION, body.extend)
                multi.add_handle(curl)
            if not bodies:
                return
            multi.select(1.0)
            multi.perform()
            more = 1
            while more:
                more, finished, failed = multi.info_read(100)
                for curl in finished:
                    multi.remove_handle(curl)
                    free.append(curl)
                    yield len(bodies.pop(curl))
                if failed:
                    raise SystemExit(f"bare: {failed[0][1:]}")

    return fetch


def fetcher(urls: list[str], in_flight: int) -> Callable[[], Sizes]:
    """Our fetcher, without readers, transforms and writers."""
    from img2dataset_dist.config import FetchConfig  # noqa: PLC0415
    from img2dataset_dist.fetchers.curl import CurlFetcher  # noqa: PLC0415
    from img2dataset_dist.model import Item  # noqa: PLC0415

    items = [Item(shard_id=0, index=i, key=f"{i:09d}", url=url) for i, url in enumerate(urls)]
    ours = CurlFetcher(FetchConfig(thread_count=in_flight, allow_private_addresses=True))

    def fetch() -> Sizes:
        for fetched in ours.fetch(iter(items)):
            if fetched.body is None:
                raise SystemExit(f"fetcher: {fetched.failure}")
            yield len(fetched.body)
        ours.close()

    return fetch


def peer(urls: list[str], in_flight: int) -> Callable[[], Sizes]:
    """The peer's function in threads."""
    from multiprocessing.pool import ThreadPool  # noqa: PLC0415

    from img2dataset.downloader import download_image_with_retry  # noqa: PLC0415

    directives = {"noai", "noimageai", "noindex", "noimageindex"}

    def fetch() -> Sizes:
        with ThreadPool(in_flight) as pool:
            for _, stream, error in pool.imap_unordered(
                lambda row: download_image_with_retry(
                    row, timeout=10, retries=0, user_agent_token=None, disallowed_header_directives=directives
                ),
                enumerate(urls),
            ):
                if stream is None:
                    raise SystemExit(f"peer: {error}")
                yield len(stream.getbuffer())

    return fetch


def main(way: str, path: Path, in_flight: int) -> None:
    """Fetch all URLs and print what it took."""
    urls = path.read_text().split()
    fetch = {"bare": bare, "fetcher": fetcher, "peer": peer}[way](urls, in_flight)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    requests = size = 0
    for length in fetch():
        requests += 1
        size += length
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"requests": requests, "bytes": size, "wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
