"""What an output folder holds already, and whether this job may go on in it.

`_img2dataset/job.json` lists the plans whose shards are in the folder: a first one, and one for every `extend`. A job
goes on only where its plan's fingerprint is known; then the shards that have a receipt are done, and nothing else is.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from img2dataset_dist import multipart, schedule
from img2dataset_dist.commit import (
    CLAIMS,
    SHARD_SUFFIXES,
    SPOOL,
    STAGING,
    WORK,
    CommitLost,
    drop,
    read_receipt,
    roll_forward,
)
from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import ConfigError, ResumeRefused
from img2dataset_dist.fetchers.profiles import PIECES
from img2dataset_dist.plan import Plan
from img2dataset_dist.redaction import redacted
from img2dataset_dist.storage import Folder, owner_is_dead

JOB_FILE = f"{WORK}/job.json"
_QUIET = frozenset(
    {
        "url_list", "output_folder", "incremental_mode", "distributor", "processes_count", "transform_processes",
        "subjob_size", "max_shard_retry", "enable_wandb", "wandb_project", "progress", "thread_count", "timeout",
        "connect_timeout", "retries", "retry_backoff", "retry_max_wait", "max_buffered_bytes", "schedule", "lanes",
        "first_byte_timeout", "max_connections_per_host", "max_requests_per_second_per_host", "host_table",
        "ignore_hosts", "host_profiles", "robots_txt", "allow_private_addresses", "allowed_schemes", "dns_servers",
        "network_patience", "transform_timeout", "max_transform_memory", "clip_ranges", "site_processes", "site_pause",
        "tmp_dir", "max_spool_bytes", "ffmpeg", "ffmpeg_timeout", "ffmpeg_threads", "hardware", "stage_batch",
    }
)  # fmt: skip
"""Options that may change between runs without making the shards differ in kind."""
NO_CONDITION = (
    "this store ignores the condition of a put (If-None-Match), so two attempts at one shard could both win: do not "
    "run two drivers on this folder at the same time, nor Spark's speculation"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a job stands when it starts.

    Attributes:
        first_shard: id of the job's first shard.
        done: ids of all shards in the folder that are complete.
        notes: what the user should know.
    """

    first_shard: int
    done: frozenset[int]
    notes: tuple[str, ...] = ()


def enter(output: Folder, plan: Plan, config: JobConfig) -> Standing:
    """Make the folder ready for this job and say what is done in it.

    Raises:
        ResumeRefused: the folder holds another list's dataset. Nothing was written.
        ConfigError: an input file would be overwritten.
    """
    mode = config.output.incremental_mode
    digits = config.input.oom_shard_count
    _spare_the_input(output, plan, digits)
    if mode == "overwrite":
        _remove_dataset(output, digits)
    jobs = _read_jobs(output)
    notes: list[str] = []
    if mode == "extend":
        _recover(output)
        done = _done(output, digits)
        first = _extend(jobs, plan, done)
        foreign: dict[int, int] = {}
    else:
        foreign = {} if jobs else _foreign_receipts(output, digits)
        _check_foreign(plan, foreign)
        first = _match(jobs, plan)
        _same_kind(jobs, plan, config)
        _recover(output)
        done = _done(output, digits) - ({i for i, rows in foreign.items() if rows < 0})
        if foreign:
            notes.append(f"{len(foreign)} shard(s) were made by another tool; their row counts fit this list")
    notes += _changed_options(jobs, plan, config)
    if plan.config.schedule == "by_host" and schedule.find(plan, output.sub(SPOOL)) is None:
        notes.append("the list is sorted by host first; fetching starts after that")
    if not any(job["fingerprint"] == plan.fingerprint and job["first_shard"] == first for job in jobs):
        jobs.append(
            {
                "fingerprint": plan.fingerprint,
                "first_shard": first,
                "complete": False,
                "identity": plan.identity,
                "options": _recorded(config),
            }
        )
        output.make()
        output.write_whole(JOB_FILE, _dump(jobs))
    if output.s3 and not output.s3.refuses_second(output.full(JOB_FILE), _dump(jobs)):
        notes.append(NO_CONDITION)
    return Standing(
        first_shard=first,
        done=frozenset(done),
        notes=tuple(notes),
    )


def leave(output: Folder, plan: Plan, first_shard: int, *, complete: bool) -> None:
    """Tidy up after a job, also one that was stopped: finish cut-off commits, sweep, note whether all is done."""
    if complete:
        jobs = _read_jobs(output)
        for job in jobs:
            if job["fingerprint"] == plan.fingerprint and job["first_shard"] == first_shard:
                job["complete"] = True
        output.write_whole(JOB_FILE, _dump(jobs))
        output.remove(SPOOL)
    _recover(output)
    if complete and output.s3:
        multipart.abort_forgotten(output, lambda shard_name: _is_done(output, shard_name), WORK)
    for folder in (STAGING, CLAIMS, SPOOL, PIECES):
        if output.exists(folder) and not output.sub(folder).files_below():
            output.remove(folder)


def sweep(output: Folder) -> None:
    """Remove what was staged that nobody will commit: of finished shards, and of dead processes of this machine."""
    for name in output.sub(STAGING).names():
        shard_name = name.partition(".")[0]
        if owner_is_dead(name) or (shard_name.isdigit() and _is_done(output, shard_name)):
            drop(output, name)


def _is_done(output: Folder, shard_name: str) -> bool:
    return read_receipt(output, shard_name) is not None


def _recover(output: Folder) -> None:
    """Finish commits that were cut off, then sweep; in this order, since a claim needs its staged files."""
    for name in output.sub(CLAIMS).names():
        if re.fullmatch(r"\d+\.json", name):
            try:
                roll_forward(output, name.removesuffix(".json"))
            except CommitLost:
                continue  # its claim is gone now: the shard is simply not done
    sweep(output)


def _receipt_pattern(digits: int) -> re.Pattern[str]:
    return re.compile(rf"(\d{{{digits},}})_stats\.json")


def _done(output: Folder, digits: int) -> set[int]:
    pattern = _receipt_pattern(digits)
    return {int(match[1]) for name in _each_name(output) if (match := pattern.fullmatch(name))}


def _each_name(output: Folder) -> Iterator[str]:
    """As `output.names()`, but one at a time and in any order: there may be millions."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if output.is_local:
            with os.scandir(output.path) as found:
                yield from (entry.name for entry in found)
        elif output.s3:
            yield from (posixpath.basename(path) for path, _ in output.s3.keys(f"{output.path}/", deep=False))
        else:
            yield from output.names()


def _foreign_receipts(output: Folder, digits: int) -> dict[int, int]:
    """Shard id to row count of receipts that no job of ours explains; -1 for a torn one."""
    pattern = _receipt_pattern(digits)
    names = [match[1] for name in output.names() if (match := pattern.fullmatch(name))]
    with ThreadPoolExecutor(32) as pool:
        return dict(zip(map(int, names), pool.map(lambda name: _rows_of(output, name), names), strict=True))


def _rows_of(output: Folder, shard_name: str) -> int:
    receipt = read_receipt(output, shard_name)
    return receipt.stats.count if receipt else -1


def _check_foreign(plan: Plan, foreign: Mapping[int, int]) -> None:
    """Another tool's shards must have the row counts that this list would give them; walks the list once."""
    if foreign and plan.config.schedule == "by_host":
        raise ResumeRefused(
            "the output folder holds shards of another tool, and nobody knows how their rows were sorted: use "
            "--schedule=list to complete them, choose another --output_folder, or use --incremental_mode=overwrite or "
            "extend"
        )
    for shard in plan.shards() if foreign else ():
        rows = foreign.get(shard.id, -1)
        if rows not in (-1, shard.rows):
            raise ResumeRefused(
                f"shard {shard.id} in the output folder has {rows} rows, but this list would give it {shard.rows}: it "
                "is another list or shard size. Choose another --output_folder, or use --incremental_mode=overwrite "
                "or extend"
            )


def _same_kind(jobs: list[dict[str, Any]], plan: Plan, config: JobConfig) -> None:
    """One dataset is of one format: a loader would see only some of the shards."""
    now = _recorded(config)
    for job in jobs:
        for name in ("output_format", "encode_format"):
            before = job["options"].get(name, now[name])
            if job["fingerprint"] == plan.fingerprint and before != now[name]:
                raise ResumeRefused(
                    f"the output folder was made with {name}={before}, not {now[name]}: choose another "
                    "--output_folder, or use --incremental_mode=overwrite to start again"
                )


def _read_jobs(output: Folder) -> list[dict[str, Any]]:
    content = output.read(JOB_FILE)
    if content is None:
        return []
    try:
        jobs: list[dict[str, Any]] = json.loads(content)["jobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeRefused(
            f"{output.full(JOB_FILE)} cannot be read ({error}); remove it to go on with the shards that are there"
        ) from error
    return jobs


def _dump(jobs: list[dict[str, Any]]) -> bytes:
    return json.dumps({"jobs": jobs}, indent=1).encode()


def _match(jobs: list[dict[str, Any]], plan: Plan) -> int:
    """First shard of the job in this folder that has our plan."""
    for job in jobs:
        if job["fingerprint"] == plan.fingerprint:
            if job.get("closed"):
                raise ResumeRefused(
                    "this list was left unfinished and the dataset was extended since; its missing shards can no "
                    "longer be told apart. Use --incremental_mode=extend to add the list again behind the others, or "
                    "--incremental_mode=overwrite to start again"
                )
            return int(job["first_shard"])
    if not jobs:
        return plan.first_shard
    raise ResumeRefused(
        f"the output folder holds another dataset: {_difference(jobs[-1]['identity'], plan.identity)}. "
        "Run with the same list and shard size to complete it, choose another --output_folder, or use "
        "--incremental_mode=overwrite to start again or --incremental_mode=extend to add this list behind it"
    )


def _extend(jobs: list[dict[str, Any]], plan: Plan, done: set[int]) -> int:
    """First shard of an extension: behind everything, or where the same extension was interrupted."""
    if jobs and jobs[-1]["fingerprint"] == plan.fingerprint and not jobs[-1]["complete"]:
        return int(jobs[-1]["first_shard"])
    for job in jobs:
        job["closed"] = job.get("closed", False) or not job["complete"]
    return max(done, default=-1) + 1


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What changed, in words."""
    parts = []
    plain = {"schedule": "list"}  # has no part in an identity
    old, new = plain | dict(old), plain | dict(new)
    for name, value in new.items():
        before = old.get(name)
        if before == value or (name == "lanes" and before is None):
            continue
        if name != "url_list":
            parts.append(f"{name} was {before!r} and is {value!r}")
        elif _files(before) != _files(value):
            parts.append(f"url_list had {_files(before)} file(s) and has {_files(value)}")
        elif isinstance(value, dict) and isinstance(before, dict):
            parts.append(f"url_list has other content ({before['size']} -> {value['size']} bytes in all files)")
        else:
            changed = [i for i, (a, b) in enumerate(zip(before or [], value, strict=False)) if a != b]
            sizes = [(before[i]["size"], value[i]["size"]) for i in changed] if before else []
            parts.append(f"url_list has other content (file {changed[0] + 1}: {sizes[0][0]} -> {sizes[0][1]} bytes)")
            if before and sizes[0][0] == sizes[0][1] and set(before[changed[0]]) != set(value[changed[0]]):
                parts[-1] = "url_list was recorded by another version, which knew its files by other marks"
    return ", ".join(parts) or "it was made by another version"


def _files(recorded: Any) -> int:
    """How many files a list has, as an identity says it: each of them, or one digest of very many."""
    return int(recorded["files"]) if isinstance(recorded, dict) else len(recorded or ())


def _recorded(config: JobConfig) -> dict[str, Any]:
    return {name: repr(redacted(value)) for name, value in config.flat().items() if name not in _QUIET}


def _changed_options(jobs: list[dict[str, Any]], plan: Plan, config: JobConfig) -> list[str]:
    ours = next((job for job in jobs if job["fingerprint"] == plan.fingerprint), None)
    if ours is None or config.output.incremental_mode == "extend":
        return []
    now = _recorded(config)
    changed = [
        f"{name} (was {ours['options'][name]}, is {value})"
        for name, value in now.items()
        if name in ours["options"] and ours["options"][name] != value
    ]
    return [f"shards done earlier were made with other options: {', '.join(changed)}"] if changed else []


def _shard_pattern(digits: int) -> re.Pattern[str]:
    suffixes = "|".join(re.escape(suffix) for suffix in (*SHARD_SUFFIXES, "_stats.json"))
    return re.compile(rf"\d{{{digits},}}(?:{suffixes})")


def _shard_files(output: Folder, digits: int) -> list[str]:
    pattern = _shard_pattern(digits)
    return [name for name in output.names() if pattern.fullmatch(name)]


def _remove_dataset(output: Folder, digits: int) -> None:
    """Overwrite: remove shards and our working folder, receipts first; whatever else is there stays."""
    for name in sorted(_shard_files(output, digits), key=lambda name: not name.endswith("_stats.json")):
        output.remove(name)
    output.remove(WORK)


def _spare_the_input(output: Folder, plan: Plan, digits: int) -> None:
    root = re.escape(output.url("").rstrip("/"))
    ours = re.compile(rf"{root}/{_shard_pattern(digits).pattern}(?:/[^/]*)?")
    for source in plan.sources:  # told by the names: there is no need to list a million shards for it
        if ours.fullmatch(source.path):
            raise ConfigError(f"url_list: {source.path} has the name of a shard in output_folder; move it elsewhere")
