"""The text that goes into a dataset: KEY.json of a row, and strings that may not be valid Unicode.

`json.dumps(row, indent=4)` takes the pure-Python encoder. A row is nearly always flat, and a flat row indented is the
C encoder's output with a newline in its separator: the same text in less than half the time.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Any

_SCALARS = frozenset({str, int, float, bool, type(None)})
_NEWLINE = "\n    "
_encode = json.JSONEncoder(separators=("," + _NEWLINE, ": "), allow_nan=False, check_circular=False).encode


def dump_row(row: dict[str, Any]) -> str:
    r"""A row as JSON, equal to `json.dumps(row, indent=4)` wherever that gives valid JSON.

    Values that JSON has no form for become: date and time -> ISO 8601, duration -> seconds, Decimal and UUID -> text,
    bytes -> base64, NaN and infinity -> null, numpy arrays -> lists. Lone surrogates stay as \ud800 escapes.
    """
    if _SCALARS.issuperset(map(type, row.values())) and row:
        try:
            return "{" + _NEWLINE + _encode(row)[1:-1] + "\n}"
        except ValueError:  # NaN or infinity
            pass
    return json.dumps(plain(row), indent=4)


def plain(value: Any) -> Any:
    """`value` with everything that JSON cannot hold replaced, as `dump_row` says."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_name(name): plain(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    return str(value)


def well_formed(value: Any) -> Any:
    """`value` with surrogates in its strings, at any depth, joined where they pair up, else replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {well_formed(name): well_formed(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(well_formed(child) for child in value)
    return value


def utf8(text: str) -> bytes:
    """`text` as UTF-8; never fails, see `well_formed`."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return bytes(well_formed(text).encode())


def _name(name: Any) -> Any:
    """A key that json.dumps takes: those it knows stay, so that it spells them."""
    known = name is None or isinstance(name, (str, int)) or (isinstance(name, float) and math.isfinite(name))
    return name if known else str(name)
