"""EXIF tags out of their TIFF structure, named and printed as exifread does it, in a sixth of its time.

TIFF 6.0, section 2, and CIPA DC-008: a chain of directories (IFDs); of each, entries of twelve bytes: tag, type, count,
and the values or where they are. exifread's tables of names and meanings are used, its way through the file is not: it
seeks, reads and unpacks every number of a list by itself. What it makes of garbage is kept where that is reasonable;
for the rest there is `Unusual`, upon which the caller may ask exifread itself.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import gcd
from typing import Any

from exifread.tags import IGNORE_TAGS
from exifread.tags.exif import EXIF_TAGS

MOST_STEPS = 100_000
"""What a file may cost, in entries looked at, values printed and the like; about 20 ms. Photos take less than 3,000."""

_TAG_STEPS = 20
"""What a tag costs besides its values or its bytes of text."""

_CODES = {1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
_SIZES = {2: 1, **{kind: struct.calcsize("<" + code) for kind, code in _CODES.items()}}
_ASCII, _LONG = 2, 4
_BYTES = (1, 7)
_RATIOS = (5, 10)
_FLOATS = (11, 12)

_TOO_MANY = 1000
"""Lists of so many values are printed as if they were empty."""
_CUT, _SHOWN = 50, 20
"""Of lists that are longer than the first, as many as the second says are printed."""
_EXIF_OFFSET = 0x8769
_IGNORED = frozenset(IGNORE_TAGS)
_ENTRY, _INLINE = 12, 4
"""Bytes of an entry, and how many of values it holds itself."""
_CONTROL = bytes(range(32))


def _structs(order: str) -> tuple[Any, dict[int, Any]]:
    """How to unpack all entries of a directory, and by type a single value within its entry, as a tuple of one."""
    pads = {kind: _INLINE - _SIZES[kind] for kind in _CODES if kind not in _FLOATS}
    singles = {kind: struct.Struct(f"{order}{_CODES[kind]}{pad}x").unpack for kind, pad in pads.items() if pad >= 0}
    return struct.Struct(order + "HHI4s").iter_unpack, singles


_STRUCTS = {order: _structs(order) for order in "<>"}

Tags = dict[str, str]


class Unusual(Exception):
    """Something that exifread prints in its own way, and that is too rare to be worth having here as well."""


class TooMuch(Exception):
    """More than `MOST_STEPS` of work."""


def read_tags(body: bytes, base: int) -> Tags:
    """The tags of the image, EXIF, GPS, interoperability and thumbnail directories; no maker notes, no user comment.

    Args:
        body: the whole file, as offsets may lead out of the block of tags.
        base: where the TIFF header is in it; all offsets count from there.

    Returns:
        Printed values by names like "Image Make", in the order of `exifread.process_file(details=False)`.

    Raises:
        Unusual: ask exifread.
        TooMuch: a hostile or broken file; exifread would take from a tenth of a second to minutes for it.
    """
    reader = _Reader(body, base)
    for number, start in enumerate(reader.chain()):
        reader.dump(start, ("Image", "Thumbnail")[number] if number < 2 else f"IFD {number}", EXIF_TAGS)  # noqa: PLR2004
    if reader.exif_offset is not None:
        reader.dump(_first(reader.exif_offset), "EXIF", EXIF_TAGS)
    return reader.tags


class _Reader:
    """One file.

    Attributes:
        tags: what was read until now.
        exif_offset: the values of the tag that says where the EXIF directory is.
    """

    def __init__(self, body: bytes, base: int) -> None:
        self._body = body
        self._base = base
        self._order = "<" if body[base : base + 1] == b"I" else ">"
        self._entries, self._singles = _STRUCTS[self._order]
        self._steps = MOST_STEPS
        self.tags: Tags = {}
        self.exif_offset: Any = None

    def chain(self) -> list[int]:
        """Where the directories are that follow each other, before they are read; loops end."""
        starts: list[int] = []
        seen = set()
        at = self._number("I", 4)
        while at and at not in seen:
            self._spend(_TAG_STEPS)
            seen.add(at)
            starts.append(at)
            at = self._number("I", at + 2 + _ENTRY * self._number("H", at))
        return starts

    def dump(self, start: int, directory: str, names: Mapping[int, Any]) -> None:
        """Read one directory; what lies behind the end of the file reads as zeros, which are no entries."""
        first = self._base + start + 2
        room = max(0, len(self._body) - first)
        entries = self._number("H", start)
        if room < entries * _ENTRY:
            if room % _ENTRY:
                raise Unusual
            entries = room // _ENTRY
        self._spend(entries)
        for tag, kind, count, raw in self._entries(self._body[first : first + entries * _ENTRY]):
            if kind not in _SIZES or tag in _IGNORED:
                continue
            values = self._singles[kind](raw) if count == 1 and kind in self._singles else self._list(kind, count, raw)
            self._spend(_TAG_STEPS + len(values))
            name, meaning = names[tag][:2] if tag in names else (f"Tag 0x{tag:04X}", None)
            if meaning is None:
                text = _plain(values, kind, count)
                if tag == _EXIF_OFFSET and directory == "Image":
                    self.exif_offset = values
            else:
                text = self._meant(meaning, values, kind, count)
            self.tags[f"{directory} {name}"] = text

    def _meant(self, meaning: Any, values: Any, kind: int, count: int) -> str:
        """Values that exifread has a table or a function for, or that lead to another directory."""
        if isinstance(meaning, tuple):
            if len(values):
                self.dump(_first(values), *meaning)
            return _plain(values, kind, count)
        if kind in _RATIOS or kind in _FLOATS:
            raise Unusual
        if callable(meaning):
            return _printable(values) if isinstance(values, (str, bytes)) else str(meaning(list(values)))
        return "".join([meaning.get(value, repr(value)) for value in values])

    def _list(self, kind: int, count: int, raw: bytes) -> Any:
        """A str or bytes for text, else a list or tuple of numbers, or of printed ratios.

        Args:
            kind: type of the entry, 1 to 13.
            count: how many values it has.
            raw: its last four bytes: the values if they fit, else their offset.
        """
        size = _SIZES[kind] * count
        if kind != _ASCII and count >= _TOO_MANY:
            return []
        source, at = raw, 0
        if size > _INLINE:
            source, at = self._body, self._base + self._singles[_LONG](raw)[0]
        if kind == _ASCII:
            text = source[at : at + size].partition(b"\0")[0]
            self._spend(len(text))
            try:
                return text.decode()
            except UnicodeDecodeError:
                return text
        if at + size > len(source):
            source, at = self._short(kind, source[at:], size), 0
        if kind in _BYTES:
            return list(source[at : at + size])
        code = _CODES[kind]
        numbers = struct.unpack_from(f"{self._order}{count * len(code)}{code[0]}", source, at)
        if kind in _RATIOS:
            return [_ratio(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
        return [(number,) for number in numbers] if kind in _FLOATS else list(numbers)

    def _short(self, kind: int, rest: bytes, size: int) -> bytes:
        """Values that the end of the file cuts off: whole numbers that are there, then zeros."""
        if kind in _FLOATS:
            raise Unusual
        width = struct.calcsize("<" + _CODES[kind][0])
        return rest[: len(rest) // width * width].ljust(size, b"\0")

    def _number(self, code: str, offset: int) -> int:
        """One number; 0 behind the end of the file."""
        try:
            return int(struct.unpack_from(self._order + code, self._body, self._base + offset)[0])
        except struct.error:
            return 0

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise TooMuch


def _first(values: Any) -> int:
    """Where a directory is."""
    if not values or isinstance(values, bytes) or not isinstance(values[0], int) or values[0] < 0:
        raise Unusual
    return int(values[0])


def _plain(values: Any, kind: int, count: int) -> str:
    """Values that mean what they say. A list is printed like one of Python's, with ratios as they are written."""
    if count == 1 and kind != _ASCII:
        return str(values[0])
    if isinstance(values, str):
        return values
    cut = count > _CUT and len(values) > _SHOWN
    shown = values[:_SHOWN] if cut else values
    text = f"[{', '.join(shown)}]" if kind in _RATIOS else str(shown)
    return text[:-1] + ", ... ]" if cut else text


def _printable(text: str | bytes) -> str:
    """Text where lists of bytes are usual (`exifread.tags.str_utils.make_string`)."""
    if isinstance(text, bytes):
        text = text.translate(None, _CONTROL).decode("latin-1") or str(text)
    return text.strip(" \0")


def _ratio(numerator: int, denominator: int) -> str:
    """As `Fraction` prints it, but division by zero is left as it is."""
    if denominator == 0:
        return f"{numerator}/0"
    divisor = gcd(numerator, denominator)
    if denominator < 0:
        divisor = -divisor
    return str(numerator // divisor) if denominator == divisor else f"{numerator // divisor}/{denominator // divisor}"
