"""Which columns of the list are wanted, under which name and type they go on, and rows to `Item`s."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from img2dataset_dist.config import InputConfig, nearest
from img2dataset_dist.errors import BadClip, BadRow, ConfigError, NoClip
from img2dataset_dist.model import Clip, Failure, Item, Shard

CLIPS = "(clips)"
"""Name under which `clip_col` goes on, which no column of a list has; it ends in `Item.clips`."""

_BOXES = pa.list_(pa.list_(pa.float64()))


def wanted(config: InputConfig) -> dict[str, str]:
    """Output name to input name, in the order of the dataset's columns: `url` last."""
    names = {name: name for name in config.save_additional_columns or ()}
    if config.bbox_col is not None:
        names[config.bbox_col] = config.bbox_col
    if config.caption_col is not None:
        names["caption"] = config.caption_col
    if config.clip_col is not None:
        names[CLIPS] = config.clip_col
    if config.verify_hash is not None:
        names[config.verify_hash[1]] = config.verify_hash[0]
    names["url"] = config.url_col
    return names


def forced_types(config: InputConfig) -> dict[str, pa.DataType]:
    """Columns whose type we decide, whatever the list holds."""
    types: dict[str, pa.DataType] = {"url": pa.string()}
    if config.caption_col is not None:
        types["caption"] = pa.string()
    if config.clip_col is not None:
        types[CLIPS] = pa.string()
    if config.verify_hash is not None:
        types[config.verify_hash[1]] = pa.string()
    return types


def forced_text_types(config: InputConfig) -> dict[str, pa.DataType]:
    """The same for formats without types of their own: boxes of whole numbers are boxes like others."""
    types = forced_types(config)
    if config.bbox_col is not None:
        types[config.bbox_col] = _BOXES
    return types


def check_columns(config: InputConfig, present: Sequence[str], path: str) -> None:
    """Every wanted column must be there exactly once.

    Raises:
        ConfigError: naming the option, the column, the file and the nearest column that exists.
    """
    options = {"url": "url_col", "caption": "caption_col", CLIPS: "clip_col", config.bbox_col: "bbox_col"}
    if config.verify_hash is not None:
        options[config.verify_hash[1]] = "verify_hash"
    times = Counter(present)
    for output, name in wanted(config).items():
        option = options.get(output, "save_additional_columns")
        if times[name] == 0:
            listed = ", ".join(list(dict.fromkeys(present))[:20]) or "none"
            raise ConfigError(
                f"{option}: no column '{name}' in {path}{nearest(name, list(present))} (its columns: {listed})"
            )
        if times[name] > 1:
            raise ConfigError(f"{option}: {path} has {times[name]} columns named '{name}'; rename all but one")


def key_of(config: InputConfig, shard_id: int, index: int) -> str:
    """Name of a sample: `10^k * shard_id + index`, zero-padded to `oom_shard_count` + k digits.

    k is the number of digits that an index needs: ceil(log10(number_sample_per_shard)).
    """
    digits = index_digits(config.number_sample_per_shard)
    return f"{10**digits * shard_id + index:0{config.oom_shard_count + digits}d}"


def index_digits(rows: int) -> int:
    """ceil(log10(rows)), exactly."""
    return len(str(rows - 1)) if rows > 1 else 0


class ItemMaker:
    """Rows by input name to `Item`s, with the types of the job's schema."""

    def __init__(self, config: InputConfig, shard: Shard, schema: pa.Schema) -> None:
        self._config = config
        self._shard_id = shard.id
        self._names = wanted(config)
        self._convert = {name: converter(schema.field(name).type) for name in self._names}

    def make(self, index: int, row: Mapping[str, Any], problem: str | None = None) -> Item:
        """The item of one row. `problem` says why the row as a whole cannot be trusted."""
        columns: dict[str, Any] = {}
        for output, name in self._names.items():
            try:
                columns[output] = self._convert[output](row.get(name))
            except BadRow as error:
                columns[output] = None
                problem = problem or f"column '{name}': {error}"
        url = columns.pop("url")
        failure = Failure.of(BadRow(problem)) if problem is not None else None
        clips = None
        if CLIPS in self._names:
            try:
                clips = clips_of(columns.pop(CLIPS))
            except BadClip as error:
                failure = failure or Failure.of(error)
            if clips == ():  # it need not be fetched
                failure = failure or Failure.of(NoClip("the row wants no clip"))
        return Item(
            clips=clips,
            shard_id=self._shard_id,
            index=index,
            key=key_of(self._config, self._shard_id, index),
            url=url,
            columns=columns,
            failure=failure,
        )


def clips_of(value: Any) -> tuple[Clip, ...] | None:
    """The wanted parts of a row's media, as `clip_col` has them; None for all of it.

    Raises:
        BadClip: it is no list of [start, end].
    """
    from img2dataset_dist.ffmpeg.clips import parse  # noqa: PLC0415 (only lists with clips need it)

    return parse(value)


def converter(kind: pa.DataType) -> Callable[[Any], Any]:
    """A function that makes a value fit an Arrow type or raises `BadRow`. None stays None."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _to_text
    return lambda value: _fit(value, kind)


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def clean(text: str) -> str:
    """Text without lone surrogates, which UTF-8 files cannot hold: they become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _fit(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and kind in FROM_TEXT:
        return _parse(value, kind)
    try:
        stored = pa.scalar(value, type=kind).as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise BadRow(f"a value is no {kind}") from None
    if not _holds(stored, value):
        raise BadRow(f"a value is no {kind}")
    return stored


def _holds(stored: Any, value: Any) -> bool:
    """Whether nothing of `value` was lost: Arrow cuts 1.5 to an integer, and skips keys that a struct does not have."""
    if isinstance(value, dict):
        return all(name in stored and _holds(stored[name], inner) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return len(stored) == len(value) and all(map(_holds, stored, value))
    return bool(stored == value or value != value)  # noqa: PLR0124 (NaN)


NULLS = frozenset({"", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "nan", "NaN"})
"""What stands for a null in a csv column of numbers or booleans; in a text column it is just text."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14}|(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|-?inf")
"""Neither "007" nor a whole number of more than 15 digits (an id): a double would not give it back."""

_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}


def _whole(value: str) -> int:
    if not _INTEGER.fullmatch(value) or not -(2**63) <= int(value) < 2**63:
        raise ValueError
    return int(value)


def _number(value: str) -> float:
    if not _NUMBER.fullmatch(value):
        raise ValueError
    return float(value)


FROM_TEXT: dict[pa.DataType, Callable[[str], Any]] = {
    pa.int64(): _whole,
    pa.float64(): _number,
    pa.bool_(): _BOOLEANS.__getitem__,
}
"""The types that are guessed for text, narrowest first, and how a text is read as one of them or refused."""


def _parse(value: str, kind: pa.DataType) -> Any:
    """Text of a csv field as the type that was decided for its column."""
    if value in NULLS:
        return None
    try:
        return FROM_TEXT[kind](value)
    except (ValueError, KeyError):
        raise BadRow(f"a value is no {kind}") from None


def fits(value: str, kind: pa.DataType) -> bool:
    """Whether a text can be read as `kind` without losing anything."""
    try:
        FROM_TEXT[kind](value)
    except (ValueError, KeyError):
        return False
    return True


def infer_type(values: Iterable[Any]) -> pa.DataType:
    """The Arrow type that holds all these JSON values; text when they have nothing in common."""
    present = [value for value in values if value is not None]
    try:
        kind = pa.array(present).type if present else pa.string()
    except (pa.ArrowException, ValueError, OverflowError):
        return pa.string()
    return pa.string() if pa.types.is_null(kind) or _holds_null(kind) else kind


def _holds_null(kind: pa.DataType) -> bool:
    """Whether an inner type is still unknown (a list that was always empty)."""
    return "null" in str(kind)
