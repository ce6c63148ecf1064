"""One error tree.

::

    Img2datasetError
    ├── ConfigError (also ValueError)   a bad option or input: exit code 2, nothing was written
    │   └── ResumeRefused               the folder holds the output of a different list or plan
    ├── InputError                      an input file turned out unreadable or changed: exit code 1
    ├── NetworkDownError                our own network stayed down: exit code 1, nothing was lost by it
    ├── EngineError                     the engine cannot run, or was stopped: exit code 1, run again to go on
    ├── ShardsFailed                    shards stayed failed after their retries: exit code 1
    ├── MissingExtra (also ImportError) an optional package is needed; says how to install it
    └── RowError                        one row failed; becomes data (`Failure`), never ends a shard
        ├── BadRow, BadUrl              the list itself is wrong
        ├── FetchError                  nothing usable came over the network
        └── MediaError                  bytes came, but no media could be made of them
            └── Rejected                fine media that a filter of the user's refused

Every leaf under `RowError` has a stable `code` (the `error_code` column), says whether the failure is `transient`
(worth a retry) and which peer-compatible `status` its row gets. `ROW_ERRORS` lists them; docs/errors.md is tested
against it.
"""

from __future__ import annotations

from typing import ClassVar

DOWNLOAD = "failed_to_download"
RESIZE = "failed_to_resize"
SUBSAMPLE = "failed_to_subsample"
"""What RESIZE is called where the media are no images."""


class Img2datasetError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(Img2datasetError, ValueError):
    """An option, a config file or an input is wrong. The message names it and says what to do."""


class ResumeRefused(ConfigError):
    """The output folder belongs to another plan (other list, other shard size)."""


class InputError(Img2datasetError):
    """An input file cannot be read to its end, or is not what was planned. The message names it."""


class NetworkDownError(Img2datasetError):
    """This machine's network stayed down for longer than `network_patience`; nothing was lost by it."""


class EngineError(Img2datasetError):
    """What should run the shards cannot, or was stopped: workers that do not start, a cancelled Spark job.

    Shards that have a receipt stay complete. The message says what to do.
    """


class MissingExtra(Img2datasetError, ImportError):
    """An optional dependency is missing. The message holds the pip command."""


class ShardsFailed(Img2datasetError):
    """Some shards stayed failed after all retries; the others are complete.

    Attributes:
        failures: shard id to the last error text.
        stats: totals over the shards that are complete (`img2dataset_dist.model.Stats`).
    """

    def __init__(self, failures: dict[int, str], stats: object) -> None:
        self.failures = failures
        self.stats = stats
        first = min(failures)
        super().__init__(
            f"{len(failures)} shard(s) failed, the first is {first}: {failures[first]}. "
            "The other shards are complete; run the same command again to retry the failed ones."
        )

    def __reduce__(self) -> tuple[type[ShardsFailed], tuple[dict[int, str], object]]:
        """Pickled by its parts, since its text is made from them."""
        return type(self), (self.failures, self.stats)


class RowError(Img2datasetError):
    """One row failed. Subclasses fix `code`, `transient` and `status`."""

    code: ClassVar[str] = "internal_error"
    transient: ClassVar[bool] = False
    status: ClassVar[str] = DOWNLOAD
    summary: ClassVar[str] = "an unexpected exception of ours; please report it"


class BadRow(RowError):
    code = "bad_row"
    summary = "the row of the list cannot be read: too many fields, invalid JSON, a value of another type"


class BadUrl(RowError):
    code = "bad_url"
    summary = "missing URL, no host, control characters, not UTF-8, too long, or a scheme not in `allowed_schemes`"


class FetchError(RowError):
    code = "fetch_error"
    summary = "an error without a class of its own, of libcurl or of an object store; the message says which"


class DnsError(FetchError):
    code = "dns"
    transient = True
    summary = "the host name could not be resolved"


class ConnectError(FetchError):
    code = "connect"
    transient = True
    summary = "no TCP connection: refused, unreachable, no route"


class TlsError(FetchError):
    code = "tls"
    summary = "TLS handshake or certificate error"


class ConnectTimeout(FetchError):
    code = "timeout_connect"
    transient = True
    summary = "name resolution, TCP and TLS together took longer than `connect_timeout`"


class FirstByteTimeout(FetchError):
    code = "timeout_first_byte"
    transient = True
    summary = "connected and asked, but no answer began within `first_byte_timeout`"


class TotalTimeout(FetchError):
    code = "timeout_total"
    transient = True
    summary = "one try at the URL, redirects included, took longer than `timeout`"


class IdleTimeout(FetchError):
    code = "timeout_idle"
    transient = True
    summary = "the body came with fewer than `min_bytes_per_second` over `min_speed_window` seconds"


class Reset(FetchError):
    code = "reset"
    transient = True
    summary = "the connection was reset, or closed before an answer"


class Truncated(FetchError):
    code = "truncated"
    transient = True
    summary = "the body ended early: Content-Length not met or chunks cut off"


class TooLarge(FetchError):
    code = "too_large"
    summary = (
        "the body is larger than `max_body_bytes`, measured after content decoding, or what ffmpeg makes of it is "
        "larger than that may be (docs/video.md)"
    )


class TooManyRedirects(FetchError):
    code = "redirect_loop"
    summary = "more than `max_redirects` redirects, or one back to where the chain has been"


class RedirectRefused(FetchError):
    code = "redirect_refused"
    summary = "a redirect to something that is no http or https URL"


class ProtocolError(FetchError):
    code = "protocol"
    summary = "the server does not speak HTTP as it should: bad headers, encoding or chunks, a redirect to no URL"


class HttpStatus(FetchError):
    """`http_404` and so on: the code of an instance holds the status."""

    code = "http_status"
    summary = "http_NNN: the server answered with status NNN; 408, 425, 429, 500, 502, 503 and 504 are transient"


class Disallowed(FetchError):
    code = "disallowed_by_header"
    summary = "an X-Robots-Tag header forbids the use (`disallowed_header_directives`)"


class EmptyBody(FetchError):
    code = "empty_body"
    summary = "a successful answer without any bytes"


class BlockedAddress(FetchError):
    code = "blocked_address"
    summary = "the address is not of the open Internet and `allow_private_addresses` is off; nothing was connected to"


class RobotsDisallowed(FetchError):
    code = "disallowed_by_robots"
    summary = "the site's robots.txt forbids it, or could not be read for now (`robots_txt`)"


class IgnoredHost(FetchError):
    code = "ignored_host"
    summary = "the host is on the ignore list (`ignore_hosts`, `host_table`); it was not asked"


class HostDown(FetchError):
    code = "host_down"
    transient = True
    summary = "the host has not answered many times in a row and is left alone for a while; it was not asked"


class NotFound(FetchError):
    code = "not_found"
    summary = "there is no such file or object (schemes other than http and https)"


class SiteError(FetchError):
    code = "extractor_error"
    summary = "a page or site could not be understood (yt-dlp failed in a way without a code of its own)"


class SiteUnsupported(SiteError):
    code = "site_unsupported"
    summary = "the page holds no video or sound that yt-dlp finds, or one of a kind that is not fetched (live, DRM)"


class SitePrivate(SiteError):
    code = "site_private"
    summary = "the site shows it only to some: private, for members, for paying or logged-in users, by age"


class SiteRemoved(SiteError):
    code = "site_removed"
    summary = "the site says that it is no longer there"


class SiteGeo(SiteError):
    code = "site_geo"
    summary = "the site does not show it in this country"


class SiteBlocked(SiteError):
    code = "site_blocked"
    transient = True
    summary = "the site takes us for a robot or finds that we ask too much; it was left alone for a while"


class HashMismatch(RowError):
    code = "hash_mismatch"
    summary = "the bytes do not have the hash that `verify_hash` names"


class MediaError(RowError):
    code = "media_error"
    status = RESIZE
    summary = "the media could not be processed"


class TransformTimeout(MediaError):
    code = "timeout_transform"
    status = RESIZE
    summary = "decoding, resizing and encoding took longer than `transform_timeout`, or ffmpeg than `ffmpeg_timeout`"


class NotMedia(MediaError):
    code = "not_media"
    status = RESIZE
    summary = "the bytes are no image, or no video and no sound: HTML, text, or an unknown type"


class UnsupportedFormat(MediaError):
    code = "unsupported_format"
    status = RESIZE
    summary = "media of a kind that no decoder here reads (SVG, PSD and others); the message says which"


class DecodeError(MediaError):
    code = "decode_error"
    status = RESIZE
    summary = "the image, video or sound is truncated or corrupt"


class DecoderCrash(MediaError):
    code = "decoder_crash"
    status = RESIZE
    summary = "the process that decoded the image died of it, twice; nothing else was lost"


class TooManyPixels(MediaError):
    code = "too_many_pixels"
    status = RESIZE
    summary = (
        "the header announces more than `max_decode_pixels`, or a side above `max_decode_side`; nothing was decoded"
    )


class TooManyFrames(MediaError):
    code = "too_many_frames"
    status = RESIZE
    summary = "the header announces more frames or pages than `max_decode_frames`; nothing was decoded"


class EncodeError(MediaError):
    code = "encode_error"
    status = RESIZE
    summary = "the result cannot be encoded, for example wider than the format allows"


class BadBox(MediaError):
    code = "bad_bbox"
    status = RESIZE
    summary = "a bounding box of `bbox_col` is not [x0, y0, x1, y1] with numbers in 0..1"


class FfmpegError(MediaError):
    code = "ffmpeg_error"
    status = SUBSAMPLE
    summary = "ffmpeg could not make what was asked for of the video or sound"


class NoStream(MediaError):
    code = "no_stream"
    status = SUBSAMPLE
    summary = "the media have no picture, or no sound, and it was asked for"


class BadClip(MediaError):
    code = "bad_clip"
    status = SUBSAMPLE
    summary = "the clips of `clip_col` are no list of [start, end], or this one is not within the video"


class BadSubtitles(MediaError):
    code = "bad_subtitles"
    status = SUBSAMPLE
    summary = "`captions_are_subtitles`, but the caption is neither VTT nor SRT"


class DiskFull(MediaError):
    code = "disk_full"
    status = SUBSAMPLE
    summary = "no room in `tmp_dir` for the media under way"


class Rejected(MediaError):
    code = "rejected"
    status = RESIZE
    summary = "refused by a filter"


class ImageTooSmall(Rejected):
    code = "image_too_small"
    summary = "the shorter side is below `min_image_size`"


class AreaTooLarge(Rejected):
    code = "image_area_too_large"
    summary = "width x height is above `max_image_area`"


class NoClip(Rejected):
    code = "no_clip"
    status = SUBSAMPLE
    summary = "no clip or scene is left: all are shorter than `min_clip_seconds`, or the row's list is empty"


class AspectTooLarge(Rejected):
    code = "aspect_ratio_too_large"
    summary = "longer side / shorter side is above `max_aspect_ratio`"


def _leaves(kind: type[RowError]) -> list[type[RowError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in _leaves(sub))]


ROW_ERRORS: dict[str, type[RowError]] = {kind.code: kind for kind in _leaves(RowError)}
"""`error_code` to class, for the docs and for whoever reads a dataset."""
