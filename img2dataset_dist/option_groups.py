"""The options: small frozen groups by who consumes them.

A field is the only place where an option's name, type, default, range and help text stand: the command line, the
reference in docs/ and the error messages are all made from it. `config.py` puts the groups together.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

HASHES = ("md5", "sha256", "sha512")
RESERVED = (
    "key", "caption", "url", "width", "height", "original_width", "original_height", "status", "error_message",
    "exif", *HASHES,
)  # fmt: skip
Hash = Literal["md5", "sha256", "sha512"]
Interpolation = Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]
InputFormat = Literal[
    "txt", "csv", "tsv", "json", "jsonl", "txt.gz", "csv.gz", "tsv.gz", "json.gz", "jsonl.gz", "parquet", "webdataset"
]
Count = Annotated[int, Field(ge=1, le=2**40)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Wait = Annotated[float, Field(ge=0, le=86400)]
NO_DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")


class Group(BaseModel):
    """Options that one part of the program consumes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, validate_default=False)


class InputConfig(Group):
    """What to read. Consumed by `plan.py` and `readers/`."""

    url_list: str = Field(
        min_length=1, description="A file of URLs, a folder of such files or a glob, on any fsspec path."
    )
    input_format: InputFormat = Field(
        "txt", description="Format of the list. A folder is searched for `*.<input_format>`, sorted by name."
    )
    url_col: str = Field("url", description="Column that holds the URL.")
    caption_col: str | None = Field(None, description="Column that holds the caption; stored as `caption`.")
    clip_col: str | None = Field(
        None,
        description="Column that holds the wanted parts of a video or sound: a list of [start, end], each in seconds "
        "or as `HH:MM:SS.f`. Each becomes a sample of its own.",
    )
    bbox_col: str | None = Field(
        None, description="Column that holds boxes to blur: a list of [x0, y0, x1, y1], each from 0 to 1."
    )
    save_additional_columns: tuple[str, ...] | None = Field(
        None, description="More columns of the list to carry into the dataset."
    )
    verify_hash: tuple[str, Hash] | None = Field(
        None, description="`[column, type]`: rows whose bytes have another hash fail. The type must be `compute_hash`."
    )
    number_sample_per_shard: Count = Field(10000, description="Rows in a shard; the last of each file may have fewer.")
    schedule: Literal["list", "by_host"] = Field(
        "list",
        description="Order of the rows. list: as they come. by_host: sorted into lanes by host before anything is "
        "fetched, so that each host is asked by one worker at a time, at its whole rate (docs/politeness.md).",
    )
    lanes: Annotated[int, Field(ge=1, le=100_000)] = Field(
        64, description='Lanes of `schedule="by_host"`: how many workers can be busy at once.'
    )
    oom_shard_count: Annotated[int, Field(ge=1, le=18)] = Field(5, description="Digits in a shard's name.")
    infer_types: bool = Field(
        True,
        description="csv and tsv: guess the types of additional columns from the first MiB of a file. False: text.",
    )

    @field_validator("save_additional_columns")
    @classmethod
    def _no_reserved_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        _refuse_reserved(names or ())
        if len(set(names or ())) != len(names or ()):
            raise ValueError("names a column twice")
        return names

    @field_validator("bbox_col")
    @classmethod
    def _no_reserved_name(cls, name: str | None) -> str | None:
        _refuse_reserved(() if name is None else (name,))
        return name


def _refuse_reserved(names: tuple[str, ...]) -> None:
    clash = sorted(set(names) & {*RESERVED, *EXTRA_COLUMNS})
    if clash:
        raise ValueError(f"may not hold {', '.join(clash)}: the dataset has columns of these names itself")


class FetchConfig(Group):
    """How to fetch. Consumed by `fetchers/`."""

    thread_count: Annotated[int, Field(ge=1, le=10000)] = Field(256, description="Transfers in flight per process.")
    timeout: Seconds = Field(10, description="Seconds for the whole of one fetch, redirects included.")
    connect_timeout: Seconds | None = Field(
        None, description="Seconds for name resolution, TCP and TLS. None: as long as `timeout`."
    )
    first_byte_timeout: Seconds | None = Field(
        None, description="Seconds from a request to the first byte of its answer. None: as long as `timeout`."
    )
    min_bytes_per_second: Annotated[int, Field(ge=0, le=2**40)] = Field(
        64, description="A body that comes more slowly for `min_speed_window` seconds fails. 0 turns it off."
    )
    min_speed_window: Seconds = Field(10, description="Seconds over which `min_bytes_per_second` is measured.")
    max_body_bytes: Count = Field(64 * 2**20, description="Largest body, in bytes after content decoding.")
    max_buffered_bytes: Count = Field(
        256 * 2**20,
        description="Bytes of bodies in memory per process, while they arrive and while they wait for their transform. "
        "Beyond it transfers pause.",
    )
    max_redirects: Annotated[int, Field(ge=0, le=50)] = Field(10, description="Redirects to follow.")
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="How often to try again after a transient failure."
    )
    retry_backoff: Wait = Field(
        1.0, description="Seconds before the first retry; doubles with each, with jitter. Waiting rows hold no slot."
    )
    retry_max_wait: Wait = Field(60, description="Longest wait before a retry in seconds; caps Retry-After too.")
    user_agent_token: str | None = Field(
        None, description="A name of your own in the user agent; X-Robots-Tag may address it."
    )
    disallowed_header_directives: tuple[str, ...] = Field(
        NO_DIRECTIVES, description="X-Robots-Tag directives that forbid the use of an image. [] turns it off."
    )
    ignore_ssl_certificate: bool = Field(False, description="Do not verify certificates.")
    max_connections_per_host: Count = Field(
        64, description="Requests under way at once to one host, by all workers of the job together."
    )
    max_requests_per_second_per_host: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None,
        description="Requests that start per second at one host, by all workers of the job together. None: as fast as "
        "the host answers; it is slowed down all the same when it answers 429 or 503 or stops answering.",
    )
    host_table: str | None = Field(
        None,
        description="YAML or JSON file of rules by host: `connections`, `rate`, `ignore`, `headers`, `proxy` "
        "(docs/politeness.md).",
    )
    ignore_hosts: str | None = Field(
        None, description="File with one host per line that must not be asked; `*.example.org` is all below it."
    )
    host_profiles: str | None = Field(
        None,
        description="What an earlier run learnt about hosts, its `_img2dataset/host_profiles.csv`: start with its "
        "rates. None: this folder's own, when there is one.",
    )
    robots_txt: Literal["ignore", "respect"] = Field(
        "ignore", description="respect: ask each site's robots.txt first (RFC 9309) and fetch only what it allows."
    )
    allow_private_addresses: bool = Field(
        False,
        description="Also connect to loopback, private, link-local and other addresses that are not of the open "
        "Internet. A list could otherwise use this machine against its own network.",
    )
    allowed_schemes: tuple[str, ...] = Field(
        ("http", "https"),
        description="Schemes that URLs of the list may have; others than http and https (`s3`, `gs`, `file`, ...) are "
        "read through fsspec, with the credentials of this machine.",
    )
    dns_servers: tuple[str, ...] | None = Field(
        None, description="Resolvers to ask, as `address` or `address:port`. None: those of the system."
    )
    network_patience: Wait = Field(
        1800,
        description="Seconds to wait while this machine's own network or resolver is down, before shards fail.",
    )

    @field_validator("allowed_schemes", mode="after")
    @classmethod
    def _are_schemes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.strip().lower().removesuffix("://") for name in names)
        if not names or not all(re.fullmatch(r"[a-z][a-z0-9+.-]*", name) for name in names):
            raise ValueError("must be names of schemes, for example ['http', 'https', 's3']")
        return names

    @field_validator("dns_servers", mode="after")
    @classmethod
    def _are_addresses(cls, servers: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for server in servers or ():
            with_port = re.fullmatch(r"(?:\[(?P<six>[^]]*)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?", server)
            try:
                ipaddress.ip_address((with_port["six"] or with_port["four"]) if with_port else server)
            except ValueError:
                raise ValueError("must be IP addresses, for example ['10.0.0.2', '10.0.0.3:5353']") from None
            if with_port and not 0 < int(with_port["port"] or 53) < 2**16:
                raise ValueError(f"has no such port as {with_port['port']}")
        return servers or None

    @field_validator("user_agent_token")
    @classmethod
    def _is_a_token(cls, token: str | None) -> str | None:
        token = None if token is None else token.strip()
        if token is not None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z/-]+", token):
            raise ValueError("must be one word of letters, digits and .-_/ (RFC 9110 product)")
        return token

    @field_validator("disallowed_header_directives", mode="before")
    @classmethod
    def _default_or_lower(cls, names: Any) -> Any:
        if names is None:
            return NO_DIRECTIVES
        return tuple(str(n).strip().lower() for n in names) if isinstance(names, (list, tuple)) else names


class ImageConfig(Group):
    """What to make of the bytes. Consumed by `transforms/`."""

    image_size: Annotated[int, Field(ge=1, le=65535)] = Field(256, description="Target side in pixels.")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        "border",
        description="no: keep. border: longer side to image_size, white borders. keep_ratio: shorter side to "
        "image_size. keep_ratio_largest: longer side to image_size. center_crop: keep_ratio, then the middle square.",
    )
    resize_only_if_bigger: bool = Field(False, description="Never enlarge.")
    upscale_interpolation: Interpolation = Field("lanczos", description="Filter for enlarging.")
    downscale_interpolation: Interpolation = Field("area", description="Filter for shrinking.")
    encode_quality: Annotated[int, Field(ge=0, le=100)] = Field(
        95, description="jpg, webp and avif: quality 0 to 100. png: compression 0 to 9."
    )
    encode_format: Literal["jpg", "png", "webp", "avif"] = Field("jpg", description="Format of the stored images.")
    jpg_progressive: bool = Field(False, description="jpg: store progressive files, which show early and are smaller.")
    jpg_optimize: bool = Field(
        False, description="jpg: optimal Huffman tables: a few percent smaller, slower to write."
    )
    skip_reencode: bool = Field(
        False, description="Keep the original bytes when they have the format already and nothing would change."
    )
    disable_all_reencoding: bool = Field(False, description="Store the bytes as they came; decode nothing.")
    min_image_size: Annotated[int, Field(ge=0, le=2**40)] = Field(
        0, description="Reject images whose shorter side is smaller."
    )
    max_image_area: Annotated[float, Field(gt=0)] = Field(
        float("inf"), description="Reject images with more pixels; read from the header, before decoding."
    )
    max_aspect_ratio: Annotated[float, Field(ge=1)] = Field(
        float("inf"), description="Reject images whose longer side / shorter side is larger."
    )
    max_decode_pixels: Count = Field(
        200_000_000, description="Never decode an image whose header announces more pixels (decompression bombs)."
    )
    max_decode_side: Count = Field(
        100_000, description="Never decode an image whose header announces a longer side, in pixels."
    )
    max_decode_frames: Count = Field(
        10_000, description="Never decode an animation with more frames or a file with more pages."
    )
    allow_truncated: bool = Field(
        False, description="Keep images that end early or are damaged, as far as they can be decoded."
    )
    decode: Literal["fast", "exact"] = Field(
        "fast",
        description="fast: a JPEG is decoded no larger than needed, and the area filter works in two steps "
        "(docs/performance.md says how close that is). exact: every pixel is decoded and `downscale_interpolation` "
        "applied once, as img2dataset does.",
    )
    extract_exif: bool = Field(True, description="Store the EXIF tags as JSON in column `exif`.")
    compute_hash: Hash | None = Field("sha256", description="Hash of the original bytes, as a column of that name.")
    compute_phash: bool = Field(
        False, description="Perceptual hash of the picture in column `phash`: near-duplicates differ in few bits."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> ImageConfig:
        if self.compute_phash and self.disable_all_reencoding:
            raise ValueError("compute_phash needs the pixels, but disable_all_reencoding decodes nothing; drop one")
        if self.encode_format != "jpg" and (self.jpg_progressive or self.jpg_optimize):
            option = "jpg_progressive" if self.jpg_progressive else "jpg_optimize"
            raise ValueError(f"{option} needs encode_format='jpg', got '{self.encode_format}'")
        if self.encode_format == "png" and self.encode_quality > 9:  # noqa: PLR2004 (zlib's highest level)
            raise ValueError(
                "encode_quality is the compression for png and must be between 0 and 9, "
                f"got {self.encode_quality}; try --encode_quality=6"
            )
        return self


class OutputConfig(Group):
    """Where and how to write. Consumed by `writers/`, `commit.py` and `resume.py`."""

    output_folder: str = Field("images", min_length=1, description="Folder of the dataset, on any fsspec path.")
    output_format: str = Field(
        "files",
        description="files, webdataset, parquet, tfrecord, dummy (fetches and transforms, stores only statistics), "
        "or your own writer as `package.module:Class`.",
    )
    incremental_mode: Literal["incremental", "overwrite", "extend"] = Field(
        "incremental",
        description="incremental: complete what is missing. overwrite: remove the dataset first. extend: add this "
        "list behind the shards that exist.",
    )


class EngineConfig(Group):
    """Who does the work. Consumed by `engines/`."""

    distributor: str = Field(
        "multiprocessing",
        description="multiprocessing (this machine), pyspark (the active Spark session, else a local one), ray (the "
        "active Ray, else a local one), inline (this process, for tests and debugging), or `package.module:Class`.",
    )
    processes_count: Count | None = Field(
        None, description="Worker processes. None: all cores. Not used with a Spark or Ray that is there already."
    )
    transform_processes: Count | None = Field(
        None, description="Processes that decode and encode, for each worker process. None: 2."
    )
    transform_timeout: Seconds = Field(
        60, description="Seconds for decoding, resizing and encoding one image; beyond it the row fails."
    )
    max_transform_memory: Count = Field(
        4 * 2**30, description="Bytes of memory for decoding, resizing and encoding one image; beyond it the row fails."
    )
    subjob_size: Count = Field(
        1000,
        description="pyspark, ray: most shards that are under way at once; twice the cores of the cluster or more.",
    )
    max_shard_retry: Annotated[int, Field(ge=0, le=100)] = Field(
        1, description="How often a shard is tried again after a crash or an exception."
    )


class ReportConfig(Group):
    """What a person sees. Consumed by `reports/`."""

    enable_wandb: bool = Field(False, description="Log metrics to Weights & Biases.")
    wandb_project: str = Field("img2dataset", description="Project name for Weights & Biases.")
    progress: Literal["auto", "bar", "plain", "none"] = Field(
        "auto", description="auto: a live bar in a terminal, else plain lines."
    )


EXTRA_COLUMNS = (
    "error_code", "http_status", "final_url", "content_type", "fetch_ms", "attempts", "bytes",
    "dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "x_robots_tag", "robots_txt", "original_format", "stored_hash",
    "phash",
)  # fmt: skip
"""Columns of ours, after the peer's, in this order; `phash` is there only with `compute_phash`."""
