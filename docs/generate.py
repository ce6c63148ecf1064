"""Write docs/reference.md, docs/errors.md and a table of docs/politeness.md from the code: `python docs/generate.py`.

With `--check` nothing is written; the exit code is 1 when a file is not what the code says.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pyarrow as pa

from img2dataset_dist import cli
from img2dataset_dist.config import EXTRA_COLUMNS, HASHES, JobConfig, Option, options
from img2dataset_dist.errors import DOWNLOAD, ROW_ERRORS, HttpStatus, RowError
from img2dataset_dist.media_options import DEFAULTS as MEDIA_DEFAULTS
from img2dataset_dist.model import Receipt, Stats
from img2dataset_dist.stats import receipt_to_json
from img2dataset_dist.writers.layout import DESCRIPTIONS, Layout

DOCS = Path(__file__).resolve().parent
MEDIA = ("jpg", "png", "webp", "mp4", "m4a", "mp3")
BEGIN, END = "<!-- options: made by docs/generate.py -->", "<!-- end of options -->"
NOTICE = "<!-- Made by docs/generate.py from the code. Change the code, then run: python docs/generate.py -->"

WORDS = {int: "whole number", float: "number", str: "text", bool: "True or False"}
"""How a Python type is called in the reference."""

FORMATS = {
    "files": "`KEY.jpg`, `KEY.json` and `KEY.txt` in a folder `NNNNN`, and `NNNNN.parquet`",
    "webdataset": "the same files in `NNNNN.tar`, and `NNNNN.parquet`",
    "parquet": "`NNNNN.parquet` alone; the images are in a binary column named after `encode_format`, other media in "
    "columns named after their extensions, or `media`",
    "tfrecord": "`NNNNN.tfrecord` with one `tf.train.Example` per image, and `NNNNN.parquet`",
    "dummy": "nothing but the stats file",
}
"""What each output format writes."""

STATS = {
    "count": "Rows of the shard.",
    "successes": "Rows with status `success`.",
    "failed_to_download": "Rows with that status.",
    "failed_to_resize": "Rows with that status.",
    "duration": "`end_time - start_time`, in seconds.",
    "start_time": "When work on the shard began, in seconds since 1970.",
    "end_time": "When its last row was written, in seconds since 1970.",
    "status_dict": "Error message to rows; `success` for the successes. Adds up to `count`. At most 1000 messages are "
    "told apart; further ones are counted as `(other messages)`.",
    "error_codes": "Error code to rows, failures only.",
    "failed_to_subsample": "Rows with that status, of other media than images. The four add up to `count`.",
    "samples": "Samples that were stored; more than `successes` where a row has several clips.",
    "bytes_downloaded": "Sum of the column `bytes`.",
    "bytes_stored": "Bytes of the stored media.",
    "shard_id": "Number of the shard.",
    "attempt": "Which attempt made it: shard name, host name, process id, a random number.",
    "fingerprint": "Fingerprint of the plan that it belongs to.",
    "files": "Files and folders of the shard with their sizes in bytes.",
}
"""Keys of NNNNN_stats.json, in their order there."""

ADVICE = {
    "internal_error": "Report it, with its `error_message`.",
    "bad_row": "Look at that line of the list. `--infer_types=False` reads all additional columns of a csv as text.",
    "bad_url": "Correct the list. `img2dataset-dist plan` counts such URLs before a job.",
    "fetch_error": "Look at `error_message`.",
    "dns": "`no such host`: the link is dead. Else set `--retries`, or use a "
    "[resolver of your own](politeness.md#dns).",
    "connect": "Set `--retries`. All rows of a host: it is gone, or it blocks you.",
    "tls": "The site's certificate is bad, or unknown here: `SSL_CERT_FILE` names other authorities. "
    "`--ignore_ssl_certificate` takes any.",
    "timeout_connect": "Set `--retries`. Many hosts at once: lower `--thread_count`, look at your line and resolver.",
    "timeout_first_byte": "Raise `--timeout`, and `--first_byte_timeout` if you set it; ask the host more slowly.",
    "timeout_total": "Raise `--timeout`; see which of the [times](#where-the-time-went) is long.",
    "timeout_idle": "Lower `--min_bytes_per_second` if your own line is that slow; else the server is not worth it.",
    "reset": "Set `--retries`. Many at one host: ask it more slowly.",
    "truncated": "Set `--retries`.",
    "too_large": "Raise `--max_body_bytes` if you want it.",
    "redirect_loop": "Nothing, or raise `--max_redirects`. Often a site that wants cookies.",
    "redirect_refused": "Nothing; we do not follow it.",
    "protocol": "Nothing; the server is broken.",
    "http_status": "404, 410: the link is dead. 401, 403: headers in the [host table](politeness.md#the-host-table), "
    "or leave it. 429, 503: [a lower rate](politeness.md#how-much-one-host-is-asked), and `--retries`.",
    "disallowed_by_header": "Respect it. [What is read](politeness.md#x-robots-tag).",
    "empty_body": "Nothing; there is no picture.",
    "blocked_address": "`--allow_private_addresses`, if the list is yours and the images are on your own network.",
    "disallowed_by_robots": "Respect it. The column `robots_txt` tells `disallowed` from `unreachable`, which may "
    "pass: try again another day.",
    "ignored_host": "Nothing; you asked for it.",
    "host_down": "Set `--retries`, or try again another day. [When it happens](politeness.md#hosts-that-are-down).",
    "not_found": "Correct the list.",
    "extractor_error": "Look at `error_message`; a newer yt-dlp may know the site better.",
    "site_unsupported": "Nothing; there is no video on that page, or one that is live or protected.",
    "site_private": "[Cookies](video.md) of an account that may see it, in `--yt_args`.",
    "site_removed": "Nothing; it is gone.",
    "site_geo": "Nothing, or a proxy in `--yt_args`.",
    "site_blocked": "Ask the site more slowly: fewer `--site_processes`, a longer `--site_pause`; set `--retries`.",
    "hash_mismatch": "The picture is not the one of the list any more.",
    "media_error": "Look at `error_message`.",
    "timeout_transform": "Raise `--transform_timeout` for huge pictures; else the file was made to do that.",
    "not_media": "Nothing; often a page that says the picture is gone.",
    "unsupported_format": "Nothing; or keep the bytes as they are with `--disable_all_reencoding`.",
    "decode_error": "Nothing; or keep what can be decoded with `--allow_truncated`.",
    "decoder_crash": "Nothing; the file was made to do that, or met a bug in a decoder: please report it with the URL.",
    "too_many_pixels": "Raise `--max_decode_pixels` or `--max_decode_side` if you trust the source.",
    "too_many_frames": "Raise `--max_decode_frames` if you trust the source.",
    "encode_error": "Another `--encode_format` or a smaller `--image_size`.",
    "bad_bbox": "Correct the list: boxes are parts of the picture, from 0 to 1, not pixels.",
    "ffmpeg_error": "Look at `error_message`; the file is broken, or of a codec that cannot be stored like that.",
    "no_stream": "Nothing; or ask for what there is with `--encode_formats`.",
    "bad_clip": "Correct the list: `[[start, end], ...]` in seconds or as HH:MM:SS.f, within the video.",
    "bad_subtitles": "Correct the list: WebVTT or SubRip text.",
    "disk_full": "A larger disk as `--tmp_dir`, a smaller `--max_spool_bytes`, or fewer processes.",
    "no_clip": "Your `--min_clip_seconds`, or an empty list of clips.",
    "rejected": "A filter of yours.",
    "image_too_small": "Your `--min_image_size`.",
    "image_area_too_large": "Your `--max_image_area`.",
    "aspect_ratio_too_large": "Your `--max_aspect_ratio`.",
}
"""What to do about each error code."""

POLITENESS = (
    "max_connections_per_host", "max_requests_per_second_per_host", "thread_count", "schedule", "lanes", "host_table",
    "ignore_hosts", "host_profiles", "retries", "retry_backoff", "retry_max_wait", "robots_txt",
    "disallowed_header_directives", "user_agent_token", "allow_private_addresses", "allowed_schemes", "max_redirects",
    "ignore_ssl_certificate", "timeout", "connect_timeout", "first_byte_timeout", "min_bytes_per_second",
    "min_speed_window", "transform_timeout", "max_body_bytes", "max_buffered_bytes", "network_patience", "dns_servers",
)  # fmt: skip
"""Options that politeness.md lists: all of how to fetch, and those of other groups that have a part in it."""

EXITS = {
    0: "All shards are done.",
    cli.EXIT_FAILED: "Some shards stayed failed, or the list broke off. All other shards are complete. Run the same "
    "command again to retry.",
    cli.EXIT_USAGE: "An option or an input is wrong, the folder holds another dataset, or a package is missing.",
    cli.EXIT_INTERRUPTED: "Stopped by Ctrl-C. Run the same command again to go on.",
    cli.EXIT_TERMINATED: "Stopped by SIGTERM. Run the same command again to go on.",
}
"""Exit codes of the command."""


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    header = list(header)
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def kind_of(annotation: Any) -> str:
    """A type annotation in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join("`None`" if part is type(None) else kind_of(part) for part in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"list of {kind_of(args[0])}"
        return f"list of {len(args)}: " + "; ".join(kind_of(part) for part in args)
    if hasattr(annotation, "__metadata__"):
        return " ".join([kind_of(annotation.__origin__), *limits(annotation.__metadata__)])
    if origin is dict:
        return "mapping"
    return WORDS[annotation]


def limits(metadata: Iterable[Any]) -> list[str]:
    """The range that annotations of pydantic give."""
    parts = []
    for entry in metadata:
        for source in (entry, *getattr(entry, "metadata", ())):
            parts += [
                f"{sign} {value:,}"
                for sign, name in ((">=", "ge"), (">", "gt"), ("<=", "le"))
                if (value := getattr(source, name, None)) is not None
            ]
    return [", ".join(dict.fromkeys(parts))] if parts else []


def option_row(name: str, option: Option) -> tuple[str, str, str, str]:
    """Name, type, default and description of one option."""
    ranges = " ".join(limits(option.field.metadata))
    kind = kind_of(option.field.annotation)
    if ranges and ranges not in kind:
        kind = f"{kind} {ranges}"
    default = "required" if option.field.is_required() else f"`{cli.default_text(option)}`"
    return f"`{name}`", kind, default, option.field.description or ""


def option_sections() -> Iterator[str]:
    """A table per group of options."""
    for group, info in JobConfig.model_fields.items():
        model: Any = info.annotation
        yield f"### {group}"
        yield ""
        yield str(model.__doc__).partition(" Consumed by")[0].strip()
        yield ""
        rows = [option_row(name, option) for name, option in options().items() if option.group == group]
        yield from table(("option", "type", "default", "meaning"), rows)


def default_rows() -> Iterator[tuple[str, ...]]:
    """Options whose default is another one for other media than images."""
    for name in dict.fromkeys(name for defaults in MEDIA_DEFAULTS.values() for name in defaults):
        default = options()[name].field.default
        yield f"`{name}`", *(f"{defaults.get(name, default):,.0f}" for defaults in MEDIA_DEFAULTS.values())


def column_rows() -> Iterator[tuple[str, str, str, str]]:
    """Every column of the fullest layout, and the alternatives of those that have some."""
    layout = Layout(
        input_schema=pa.schema([("caption", pa.string()), ("url", pa.string())]),
        exif=True,
        hash_name=HASHES[0],
        encode_format=MEDIA[0],
        caption=True,
        phash=True,
        media="video",
        columns=(MEDIA[0],),
        stages=True,
    )
    alternatives = {HASHES[0]: HASHES, MEDIA[0]: MEDIA}
    yield "*additional columns*", "as in the list", "Columns named by `save_additional_columns`.", "the list has none"
    yield "*boxes*", "as in the list", "The column named by `bbox_col`.", "the list has none"
    for field in layout.schema(media=True):
        names = alternatives.get(field.name, (field.name,))
        described = {DESCRIPTIONS[name] for name in names}
        if len(described) != 1:
            raise ValueError(f"{names} have different descriptions: give them lines of their own")
        meaning, null = described.pop()
        yield ", ".join(f"`{name}`" for name in names), str(field.type), meaning, null


def stats_rows() -> Iterator[tuple[str, str]]:
    """Every key of a stats file."""
    written = json.loads(receipt_to_json(Receipt(shard_id=0, stats=Stats(), attempt="", fingerprint="")))
    for name in written:
        yield f"`{name}`", STATS[name]


def reference() -> str:
    """The content of reference.md."""
    lines = [
        NOTICE,
        "# Reference",
        "",
        "## Options",
        "",
        (
            "An option has one name. It is the argument of `download()`, the flag `--name=value` of the command, and "
            "the key in a file given by `--config=FILE` (YAML or JSON; flags override it). A list is written "
            "`--name=[a,b]`, none is `--name=None`."
        ),
        "",
        *option_sections(),
        "### Defaults that differ by media",
        "",
        "Of options that were not given.",
        "",
        *table(("option", *(f"`{media}`" for media in MEDIA_DEFAULTS)), default_rows()),
        "## Output formats",
        "",
        (
            "Choose one with `output_format`. `NNNNN` is the shard, `KEY` the sample. Only successes have media; every "
            "row, failed or not, has its line in `NNNNN.parquet`. Every shard has a stats file. `KEY.txt` is there "
            "only with `caption_col`; for a null caption it is empty."
        ),
        "",
        *table(("format", "files"), ((f"`{name}`", text) for name, text in FORMATS.items())),
        "## Columns",
        "",
        (
            "Of `NNNNN.parquet`, in this order; those from `kind` to `stages` are there only with other `media` than "
            "`image` (`fps` to `yt_meta_dict` only with `video` and `audio`), and `stages` with `stages`."
        ),
        "",
        (
            " `KEY.json` and the features of a tfrecord have the same names. `exif` "
            "is there only with `extract_exif`, the hash only with `compute_hash`. With `verify_hash` the hash stands "
            "before `url`. In `KEY.json`, dates are ISO 8601 text, bytes are base64, NaN and infinity are null."
        ),
        "",
        *table(("column", "type", "meaning", "null when"), column_rows()),
        f"The columns from `{EXTRA_COLUMNS[0]}` on are additions to those of img2dataset.",
        "",
        "## Stats file",
        "",
        "`NNNNN_stats.json` is the receipt of a shard. It is written last: a shard without it does not exist.",
        "",
        *table(("key", "meaning"), stats_rows()),
        "## Exit codes",
        "",
        *table(("code", "meaning"), ((f"{code}", text) for code, text in EXITS.items())),
        "A row that fails is data and does not change the exit code.",
    ]
    return "\n".join(lines) + "\n"


def error_row(code: str, kind: type[RowError]) -> tuple[str, str, str, str, str]:
    """Code, status, whether it is tried again, meaning and advice."""
    name = "`http_NNN`" if kind is HttpStatus else f"`{code}`"
    again = "see right" if kind is HttpStatus else "yes" if kind.transient else "no"
    return name, f"`{kind.status}`", again, kind.summary, ADVICE[code]


def phase_rows() -> Iterator[tuple[str, str, str]]:
    """The columns that say how long each part of a request took."""
    for name in ("dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "fetch_ms"):
        meaning, null = DESCRIPTIONS[name]
        yield f"`{name}`", meaning, null


def errors() -> str:
    """The content of errors.md."""
    download = [error_row(code, kind) for code, kind in ROW_ERRORS.items() if kind.status == DOWNLOAD]
    media = [error_row(code, kind) for code, kind in ROW_ERRORS.items() if kind.status != DOWNLOAD]
    header = ("code", "status", "transient", "meaning", "what to do")
    lines = [
        NOTICE,
        "# Error codes",
        "",
        (
            "Every failed row has an `error_code`. Codes are stable; the words in `error_message` may change. A "
            "*transient* failure is tried again up to `retries` times. `ROW_ERRORS` in `img2dataset_dist.errors` maps "
            f"codes to classes. There `http_NNN` is listed as `{HttpStatus.code}`. A row has the code of its last "
            "try. A dataset that is complete is not fetched again: to try failed rows once more, make a list of their "
            "URLs."
        ),
        "",
        "## No usable bytes came",
        "",
        *table(header, download),
        "## Bytes came, but no image or other media were made of them",
        "",
        "Of other media than images the status is `failed_to_subsample` in all of these.",
        "",
        *table(header, media),
        "## How often each occurred",
        "",
        "```python",
        "import glob",
        "",
        "import pyarrow.parquet as pq",
        "",
        'table = pq.read_table(sorted(glob.glob("dataset/*.parquet")), columns=["error_code"])',
        'print(table.group_by("error_code").aggregate([([], "count_all")]).to_pylist())',
        "```",
        "",
        "## Which hosts failed, and how",
        "",
        "```python",
        "import glob",
        "",
        "import pyarrow.compute as pc",
        "import pyarrow.parquet as pq",
        "",
        'table = pq.read_table(sorted(glob.glob("dataset/*.parquet")), columns=["url", "error_code"])',
        'failed = table.filter(pc.is_valid(table["error_code"]))',
        r"""parts = pc.extract_regex(failed["url"], r"^\w+://(?:[^/?#@]*@)?(?P<host>\[[^\]]*\]|[^/?#:]*)")""",
        'failed = failed.append_column("host", pc.struct_field(parts, "host"))',
        'counts = failed.group_by(["host", "error_code"]).aggregate([([], "count_all")])',
        'for row in counts.sort_by([("count_all", "descending")]).slice(0, 20).to_pylist():',
        '    print(row["count_all"], row["host"], row["error_code"])',
        "```",
        "",
        "The host is that of the list. Where redirects led is in the column `final_url`.",
        "",
        "## Where the time went",
        "",
        (
            "Four columns split the last request of a row; `fetch_ms` is its whole last try, with all redirects and "
            "the body. They are there for failures too, as far as the request came."
        ),
        "",
        *table(("column", "meaning", "null when"), phase_rows()),
        (
            "Much `dns_ms`: use a resolver of your own ([DNS](politeness.md#dns)). Much `connect_ms` or `tls_ms` in "
            "many rows of one host: its connections are not kept alive. Much `first_byte_ms`: the server is slow, or "
            "has too much to do. Much of `fetch_ms` beyond their sum: large bodies, slow lines or redirects. The "
            "time that a row waits for its turn at a host is in none of them."
        ),
    ]
    return "\n".join(lines) + "\n"


def politeness() -> str:
    """The content of politeness.md, which is written by hand but for its table of options."""
    before, _, rest = (DOCS / "politeness.md").read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"politeness.md has no lines {BEGIN} and {END}")
    rows = (option_row(name, options()[name]) for name in POLITENESS)
    return "\n".join((f"{before}{BEGIN}", "", *table(("option", "type", "default", "meaning"), rows), f"{END}{after}"))


PAGES = {"reference.md": reference, "errors.md": errors, "politeness.md": politeness}
"""File name in docs/ to the function that makes it."""


def main() -> int:
    """Write the pages, or only compare them; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        path, content = DOCS / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(name)
        if not check:
            path.write_text(content, encoding="utf-8")
    if stale:
        print(f"docs/generate.py: {', '.join(stale)} {'out of date' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
