"""What was learnt about hosts, so that the next run begins with it: a csv file that people can read, sort and edit.

Each worker leaves a piece; the driver folds the pieces into one file at the end of a job. It is advice, not part of
the dataset: a piece that is torn or not ours is passed over. A driver that dies between writing the file and removing
the pieces has them counted twice by the next one, which is why nothing but rates and an overview is made of it.
"""

from __future__ import annotations

import csv
import heapq
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.storage import Folder, open_input

FILE = "_img2dataset/host_profiles.csv"
PIECES = "_img2dataset/hosts"
MAX_HOSTS = 1_000_000
"""Hosts in the file, those with the most requests. While pieces are folded there may be twice as many in memory."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProfile:
    """What was learnt about one host.

    Attributes:
        host: name or address, lower case.
        requests: how many were made, tries counted one by one.
        successes: answers with 2xx.
        errors: no answer, or a status of 400 or more; redirects are neither.
        slow_downs: 429, 503 and timeouts.
        rate: requests per second at which the host was last asked, over the whole job; None: no limit was needed.
        latency_ms: mean time to the first byte.
        last_seen: date and time in UTC, ISO 8601.
    """

    host: str
    requests: int
    successes: int
    errors: int
    slow_downs: int
    rate: float | None
    latency_ms: int
    last_seen: str


_COLUMNS = tuple(field.name for field in fields(HostProfile))
_COUNTS = ("requests", "successes", "errors", "slow_downs", "latency_ms")


def write_piece(output: Folder, name: str, profiles: Iterable[HostProfile]) -> None:
    """Store what one worker learnt, as the file `name`.csv in `PIECES`; nothing when it learnt nothing.

    Args:
        output: folder of the dataset.
        name: not used by any other worker; an earlier piece of that name is replaced.
        profiles: one per host.
    """
    listed = list(profiles)
    if listed:
        output.write_whole(f"{PIECES}/{name}.csv", _encode(listed))


def merge_pieces(output: Folder) -> None:
    """Fold all pieces, and the file that is there, into `FILE`; then remove the pieces.

    Counts add up and latencies are weighted by requests. The rate is the lowest of the pieces, which are of the newest
    run; that of the file is kept for hosts to which none of them has one.

    Raises:
        OSError: the store failed. The pieces are still there.
    """
    folder = output.sub(PIECES)
    names = [name for name in folder.names() if name.endswith(".csv")]
    if not names:
        return
    new: dict[str, HostProfile] = {}
    for name in names:
        _fold(new, _readable(folder, name), _lowest)
    merged: dict[str, HostProfile] = {}
    _fold(merged, _readable(output, FILE), _lowest)
    _fold(merged, new.values(), _newest)
    most = heapq.nsmallest(MAX_HOSTS, merged.values(), key=_rank)
    output.write_whole(FILE, _encode(most))
    for name in names:
        folder.remove(name)


def read_profiles(path: str) -> dict[str, HostProfile]:
    """The profiles of a file by host, on any fsspec path.

    Raises:
        ConfigError: it cannot be read or is no such file; names the file, and the line where there is one.
    """
    try:
        with open_input(path) as file:
            content = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"host_profiles={path!r} cannot be read: {error}") from None
    try:
        return {profile.host: profile for profile in _decode(content)}
    except ValueError as error:
        raise ConfigError(f"host_profiles={path!r}, {error}") from None


def _rank(profile: HostProfile) -> tuple[int, str]:
    """Most requests first; by name among equals, so that the file does not depend on who was first."""
    return -profile.requests, profile.host


def _fold(
    into: dict[str, HostProfile],
    profiles: Iterable[HostProfile],
    rate: Callable[[float | None, float | None], float | None],
) -> None:
    for profile in profiles:
        known = into.get(profile.host)
        into[profile.host] = profile if known is None else _sum(known, profile, rate(known.rate, profile.rate))
        if len(into) > 2 * MAX_HOSTS:
            kept = heapq.nsmallest(MAX_HOSTS, into.values(), key=_rank)
            into.clear()
            into.update((one.host, one) for one in kept)


def _lowest(known: float | None, other: float | None) -> float | None:
    return min((rate for rate in (known, other) if rate is not None), default=None)


def _newest(known: float | None, other: float | None) -> float | None:
    return known if other is None else other


def _sum(a: HostProfile, b: HostProfile, rate: float | None) -> HostProfile:
    requests = a.requests + b.requests
    weighted = a.latency_ms * a.requests + b.latency_ms * b.requests
    return replace(
        a,
        requests=requests,
        successes=a.successes + b.successes,
        errors=a.errors + b.errors,
        slow_downs=a.slow_downs + b.slow_downs,
        rate=rate,
        latency_ms=round(weighted / requests) if requests else max(a.latency_ms, b.latency_ms),
        last_seen=max(a.last_seen, b.last_seen),
    )


def _encode(profiles: Iterable[HostProfile]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(astuple(profile) for profile in profiles)
    return text.getvalue().encode()


def _readable(folder: Folder, name: str) -> list[HostProfile]:
    """The profiles of a piece; none when it is torn or foreign. All or nothing: half a piece would count wrongly."""
    try:
        return list(_decode(folder.read(name) or b""))
    except ValueError:
        return []


def _decode(content: bytes) -> Iterator[HostProfile]:
    """The rows of a file.

    Raises:
        ValueError: saying in which line what is wrong.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("line 1: is not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise ValueError(f"column {missing[0]!r} is missing")  # noqa: TRY301 (gets its line below)
        places = [header.index(name) for name in _COLUMNS]
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise ValueError(f"has {len(row)} fields instead of {len(header)}")  # noqa: TRY301 (as above)
                yield _profile(dict(zip(_COLUMNS, (row[place] for place in places), strict=True)))
    except (csv.Error, ValueError) as error:
        raise ValueError(f"line {max(1, reader.line_num)}: {error}") from None


def _profile(row: dict[str, str]) -> HostProfile:
    counts = {}
    for name in _COUNTS:
        if not re.fullmatch(r"[0-9]{1,18}", row[name]):
            raise ValueError(f"{name} is {row[name][:50]!r} and not a whole number")
        counts[name] = int(row[name])
    try:
        rate = float(row["rate"]) if row["rate"] else None
    except ValueError:
        rate = math.nan
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"rate is {row['rate'][:50]!r} and not a number above 0")
    if not row["host"] or not _TIME.fullmatch(row["last_seen"]):
        raise ValueError(
            "host or last_seen is missing" if not row["host"] else "last_seen is no ISO 8601 date and time"
        )
    return HostProfile(host=row["host"], rate=rate, last_seen=row["last_seen"], **counts)
