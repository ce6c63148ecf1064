"""What bytes are, by their first ones.

The URL, its extension and the Content-Type are never trusted. Nothing of a codec is imported here.
"""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO

HEAD_BYTES = 4096
"""Bytes from the beginning of a file that are enough for `sniff`."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff\xf7", "jls"),
    (rb"\xff\xd8\xff", "jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"RIFF....WEBP", "webp"),
    (rb"GIF8[79]a", "gif"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "bmp"),
    (rb"II\*\x00|MM\x00\*|II\x2b\x00|MM\x00\x2b", "tiff"),
    (rb"....ftyp(avi[fs]|(mif1|msf1|miaf).{4,64}?avi[fs])", "avif"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1|miaf)", "heic"),
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "jp2"),
    (rb"P[1-6][ \t\r\n]", "ppm"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
    (rb"8BPS", "psd"),
    (rb"\x00\x00[\x01\x02]\x00(?!\x00\x00)", "ico"),
    (rb"gimp xcf", "xcf"),
    (rb"DDS ", "dds"),
    (rb"\x76\x2f\x31\x01", "exr"),
    (rb"#\?RADIANCE|#\?RGBE", "hdr"),
    (rb"qoif", "qoi"),
    (rb"icns", "icns"),
    (rb"II\xbc\x01", "jxr"),
    (rb"AT&TFORM....DJV", "djvu"),
    (rb"SIMPLE  =", "fits"),
    (rb"....ftypqt|....(moov|mdat|wide|free|skip)", "mov"),
    (rb"....ftypM4[AB]", "m4a"),
    (rb"....ftyp3g", "3gp"),
    (rb"....ftyp", "mp4"),
    (rb"\x1a\x45\xdf\xa3.{0,64}?webm", "webm"),
    (rb"\x1a\x45\xdf\xa3", "mkv"),
    (rb"RIFF....AVI ", "avi"),
    (rb"FLV\x01", "flv"),
    (rb"fLaC", "flac"),
    (rb"OggS", "ogg"),
    (rb"(RIFF|RF64)....WAVE", "wav"),
    (rb"\xff[\xfb\xf3\xf2\xfa\xe3\xe2]", "mp3"),
    (rb"\xff[\xf1\xf9\xf0\xf8]", "aac"),
    (rb"#!AMR", "amr"),
    (rb"FORM....AIF[FC]", "aiff"),
    (rb"\x0b\x77", "ac3"),
    (rb"MThd", "mid"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv"),
    (rb"\x00\x00\x01[\xba\xb3]", "mpg"),
    (rb"\x47.{187}\x47.{187}\x47", "ts"),
    (rb".{4}\x47.{191}\x47.{191}\x47", "m2ts"),
    (rb"#EXTM3U", "m3u8"),
    (rb"WEBVTT", "vtt"),
    (rb"%PDF-", "pdf"),
    (rb"%!PS", "eps"),
    (rb"\x1f\x8b", "gz"),
    (rb"PK\x03\x04", "zip"),
    (rb"Rar!", "rar"),
    (rb"7z\xbc\xaf", "7z"),
    (rb"BZh", "bz2"),
    (rb"\x28\xb5\x2f\xfd", "zst"),
    (rb"\xfd7zXZ\x00", "xz"),
    (rb"PAR1", "parquet"),
    (rb"\x93NUMPY", "npy"),
    (rb"\x89HDF\r\n\x1a\n", "h5"),
    (rb"glTF", "glb"),
    (rb"SQLite format 3\x00", "sqlite"),
    (rb".{257}ustar", "tar"),
    (rb"\x7fELF", "elf"),
    (rb"MZ", "exe"),
    (rb"(\x00\x01\x00\x00|true|OTTO)\x00", "otf"),
    (rb"wOF[F2]", "woff"),
)
_SIGNATURES = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind in _MAGIC)
_TAG = b"ID3"
_TAGGED = frozenset({"aac", "ac3", "flac", "ogg", "wav", "aiff"})
"""Sounds that may have an ID3 tag before them; what else stands behind one is MP3, whose first bytes say little."""

_MOST_TAGS = 8
_TELLING = 16
"""Bytes that tell sounds apart."""

_PROLOG = re.compile(rb"\s+|<\?.*?\?>|<!--.*?-->", re.DOTALL)
"""One thing that may stand before the root of a document."""

_SVG = re.compile(rb"<(!doctype\s+svg\b|(\w+:)?svg[\s/>])", re.IGNORECASE)
_HTML = re.compile(
    rb"<(!doctype html|html|head|body|script|style|title|meta|link|base|noscript|div|p|a|h[1-6]|br|img|font|center|"
    rb"table|ul|form|iframe)\b|<!--",
    re.IGNORECASE,
)
_XHTML = re.compile(rb"<(!doctype html|html)\b", re.IGNORECASE)
_MPD = re.compile(rb"<(\w+:)?MPD[\s>]")
_TEXTS = ((b"#EXTM3U", "m3u8"), (b"WEBVTT", "vtt"))
"""What may also stand behind a byte order mark or empty lines."""
_HEAD = 1024
"""How many bytes are looked at to tell kinds of text apart."""

OTHER_IMAGES = frozenset({
    "svg", "psd", "jxl", "xcf", "dds", "exr", "hdr", "qoi", "icns", "jxr", "jls", "djvu", "fits", "eps",
})  # fmt: skip
"""Images, but of a kind that no decoder here reads."""

_EXTENSIONS = {
    "jpeg": "jpg",
    "tiff": "tif",
    "json": "bin",
    "xml": "bin",
    "text": "bin",
    "unknown": "bin",
    "empty": "bin",
}
"""Kinds that are not their own extension. KEY.txt and KEY.json are other parts of a sample, so never text or JSON."""

_MIMES = {
    "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif", "bmp": "image/bmp",
    "tiff": "image/tiff", "avif": "image/avif", "heic": "image/heic", "jp2": "image/jp2", "jxl": "image/jxl",
    "ppm": "image/x-portable-anymap", "ico": "image/vnd.microsoft.icon", "svg": "image/svg+xml",
    "psd": "image/vnd.adobe.photoshop", "dds": "image/vnd-ms.dds", "exr": "image/aces", "hdr": "image/vnd.radiance",
    "icns": "image/icns", "jxr": "image/jxr", "jls": "image/jls", "djvu": "image/vnd.djvu", "fits": "image/fits",
    "xcf": "image/x-xcf", "qoi": "image/qoi",
    "mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "mkv": "video/matroska", "3gp": "video/3gpp",
    "avi": "video/vnd.avi", "flv": "video/x-flv", "wmv": "video/x-ms-wmv", "mpg": "video/mpeg", "ts": "video/mp2t",
    "m2ts": "video/mp2t",
    "m4a": "audio/mp4", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg", "wav": "audio/vnd.wave",
    "aac": "audio/aac", "amr": "audio/amr", "aiff": "audio/aiff", "ac3": "audio/ac3", "mid": "audio/midi",
    "m3u8": "application/vnd.apple.mpegurl", "mpd": "application/dash+xml",
    "html": "text/html", "xml": "application/xml", "json": "application/json", "text": "text/plain",
    "vtt": "text/vtt", "pdf": "application/pdf", "eps": "application/postscript",
    "zip": "application/zip", "gz": "application/gzip", "rar": "application/vnd.rar",
    "7z": "application/x-7z-compressed",
    "bz2": "application/x-bzip2", "zst": "application/zstd", "xz": "application/x-xz", "tar": "application/x-tar",
    "parquet": "application/vnd.apache.parquet", "h5": "application/x-hdf5", "glb": "model/gltf-binary",
    "sqlite": "application/vnd.sqlite3", "otf": "font/otf", "woff": "font/woff",
}  # fmt: skip
_CLASSES = {
    **{
        kind: name.partition("/")[0] for kind, name in _MIMES.items() if name.startswith(("image/", "video/", "audio/"))
    },
    **dict.fromkeys(OTHER_IMAGES, "image"),
    **dict.fromkeys(("m3u8", "mpd"), "playlist"),
    **dict.fromkeys(("text", "json", "xml", "vtt", "pdf"), "text"),
    **dict.fromkeys(("zip", "gz", "rar", "7z", "bz2", "zst", "xz", "tar"), "archive"),
    "html": "page",
}


def sniff(body: bytes) -> str:
    """The kind of `body` by its first bytes.

    Returns:
        One of `media.IMAGES` or `OTHER_IMAGES`; else what it is instead: "mp4", "webm", "mp3", "pdf", "zip" and so on,
        or "html", "xml", "json", "text", "empty", "unknown".
    """
    if body.startswith(_TAG):
        return _sound(body, _behind_tags(body))
    for signature, kind in _SIGNATURES:
        if signature.match(body):
            return kind
    head = body[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "text" if body else "empty"
    marked = _markup(body[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf")) if head.startswith(b"<") else None
    if marked is not None:
        return marked
    for start, kind in _TEXTS:
        if head.startswith(start):
            return kind
    if b"\x00" in head or sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):  # noqa: PLR2004
        return "unknown"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental, as the cut may be within a character
    except UnicodeDecodeError:
        return "unknown"
    return "json" if head[:1] in b"{[" else "text"


def sniff_file(file: BinaryIO) -> str:
    """The kind of an open file, as `sniff` names it; also where a tag before a sound is longer than `HEAD_BYTES`.

    Raises:
        OSError: it cannot be read.
    """
    head = file.read(HEAD_BYTES)
    begin = _behind_tags(head)
    if begin + _TELLING <= len(head) or not begin:
        return sniff(head)
    file.seek(begin)
    return _sound(file.read(_TELLING), 0)


def _behind_tags(body: bytes) -> int:
    """Where the ID3v2 tags at the beginning end (id3.org, ID3v2.4.0 section 3.1); 0 without any."""
    at = 0
    for _ in range(_MOST_TAGS):
        head = body[at : at + 10]
        if not head.startswith(_TAG) or len(head) < 10:  # noqa: PLR2004
            break
        size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(head[6:])))
        at += 10 + size + (10 if head[5] & 0x10 else 0)  # a footer is as long as the head
    return at


def _sound(body: bytes, begin: int) -> str:
    """What sound begins there, behind a tag."""
    found = (kind for signature, kind in _SIGNATURES if kind in _TAGGED and signature.match(body, begin))
    return next(found, "mp3")


def _markup(head: bytes) -> str | None:
    """Which kind of markup, by its root; None for none. An image, or what looks like one, may be within a page, too."""
    root = head
    while found := _PROLOG.match(root):
        root = root[found.end() :]
    if _SVG.match(root):
        return "svg"
    if _MPD.match(root):
        return "mpd"
    if head.lstrip().startswith(b"<?xml"):
        return "html" if _XHTML.match(root) else "xml"
    return "html" if _HTML.match(root) else None


def class_of(kind: str) -> str:
    """What a kind is to people: "image", "video", "audio", "text", "playlist", "page", "archive" or "other".

    A container that may hold either is a video; whoever looks into it may find that it has only sound.
    """
    return _CLASSES.get(kind, "other")


def mime_of(kind: str) -> str:
    """The media type of `kind` by the IANA registry, else by custom; "application/octet-stream" when unknown."""
    return _MIMES.get(kind, "application/octet-stream")


def extension_of(kind: str) -> str:
    """How a file of `kind` (as `sniff` names it) is called, without the dot; "bin" when that says nothing useful."""
    return _EXTENSIONS.get(kind, kind)
