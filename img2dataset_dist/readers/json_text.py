"""The elements of a JSON list in a stream, one after the other, and where in the stream each of them ends."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

CHUNK = 2**20
MAX_ELEMENT = 256 * 2**20
"""Characters of an element; a longer one is no row, and would not fit the memory."""

MAX_DEPTH = 100
"""Levels of lists and objects inside a row; a list is hostile input, and a deeper one would not fit the stack."""

NEAR_END = 16
"""An error so close to the end of what was read may only mean that the rest is still to come (`tru`, `\\u00`)."""

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODE = json.JSONDecoder(parse_constant=_no_constant).raw_decode


class ListText:
    """Iterates over the elements of a list; `offset` is the byte behind the last one.

    Args:
        stream: stands at the list's `[`, or behind an element of it.
        offset: where that is.
        inside: whether it stands behind an element.

    Raises:
        ValueError: this is no JSON, or too deep, or breaks off.
    """

    def __init__(self, stream: IO[bytes], *, offset: int, inside: bool) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("strict")
        self._text = ""
        self._place = self._counted = self._begin = 0
        self._offset = offset
        self._ended = False
        self._inside = inside

    @property
    def offset(self) -> int:
        """Bytes of the stream up to the end of the last element."""
        self._offset += len(self._text[self._counted : self._place].encode())
        self._counted = self._place
        return self._offset

    @property
    def text(self) -> str:
        """The last element as it stands in the stream."""
        return self._text[self._begin : self._place]

    def __iter__(self) -> Iterator[Any]:
        if not self._inside:
            self._pass("[")
            if self._peek() == "]":
                self._pass("]")
                return self._finish()
            yield self._value()
        while True:
            found = _COMMA.match(self._text, self._place)
            if found and found.end() < len(self._text):  # nearly always; the rest is for the seams between two reads
                self._place = found.end()
            elif self._peek() == ",":
                self._pass(",")
            else:
                break
            yield self._value()
        self._pass("]")
        return self._finish()

    def _peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while (place := self._behind_space()) == len(self._text):
            if not self._more():
                return ""
        return self._text[place]

    def _behind_space(self) -> int:
        found = _SPACE.match(self._text, self._place)
        return found.end() if found else self._place

    def _pass(self, sign: str) -> None:
        here = self._peek()
        if here != sign:
            raise ValueError(f"expected '{sign}' behind byte {self.offset}" if here else "premature EOF")
        self._place = self._behind_space() + 1

    def _value(self) -> Any:
        if self._text[self._place : self._place + 1] in " \t\r\n":
            self._peek()
            self._place = self._behind_space()
        while True:
            try:
                value, end = _DECODE(self._text, self._place)
            except json.JSONDecodeError as error:
                cut_off = error.pos >= len(self._text) - NEAR_END or error.msg.startswith("Unterminated")
                if not cut_off:
                    raise
                if not self._more():
                    raise ValueError(f"premature EOF, or {error.msg} behind byte {self.offset}") from error
                continue
            except RecursionError as error:
                raise ValueError(f"a value is nested deeper than {MAX_DEPTH} levels") from error
            is_number = self._text[self._place] in "-0123456789"  # "1." and "1e-" may be cut off, and read as 1
            if not is_number or end + len("e-") < len(self._text) or not self._more():
                if self._text.count("[", self._place, end) + self._text.count("{", self._place, end) > MAX_DEPTH:
                    _check_depth(value)
                self._begin, self._place = self._place, end
                return value

    def _more(self) -> bool:
        """Read on; twice as much each time that an element did not fit. False at the end of the stream."""
        if self._ended:
            return False
        self.offset  # noqa: B018 (counts what is dropped here)
        self._text = self._text[self._place :]
        self._place = self._counted = 0
        if len(self._text) > MAX_ELEMENT:
            raise ValueError(f"an element has more than {MAX_ELEMENT} characters")
        data = self._stream.read1(max(CHUNK, len(self._text)))  # type: ignore[attr-defined]
        self._ended = not data
        self._text += self._decode.decode(data, final=self._ended)
        return True

    def _finish(self) -> None:
        if self._peek():
            raise ValueError("something stands behind the end of the list")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise ValueError(f"a value is nested deeper than {MAX_DEPTH} levels")


def _inner(value: Any) -> list[Any]:
    """The lists and objects inside of one."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, (dict, list))]
