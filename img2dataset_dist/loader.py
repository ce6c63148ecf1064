"""A dataset to train from: an iterable over its tars, decoded, by way of the webdataset library.

::

    from img2dataset_dist.loader import dataset

    for sample in dataset("s3://bucket/videos", frames=8, where={"duration": (2, 30), "height": lambda h: h >= 240}):
        sample["video"]     # uint8 (8, height, width, 3)
        sample["json"]      # all that is known of it

It needs the extra: `pip install 'img2dataset_dist[loader]'`. What comes out is a `webdataset.DataPipeline`, so that its
`.map`, `.batched` and so on (through `.compose`) and PyTorch's DataLoader work as they do with any other; torch itself
is not needed. The tars are divided among the workers of a DataLoader and among the nodes of a distributed job, so there
should be more of them than of those.
"""

from __future__ import annotations

import functools
import io
import json
import posixpath
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
import numpy as np

from img2dataset_dist import arrays, inputs, storage
from img2dataset_dist.errors import ConfigError, DecodeError, MissingExtra, NoStream, RowError
from img2dataset_dist.tars import role_of

Decode = Literal["rgb", "pil", "raw"]
Where = Callable[[Mapping[str, Any]], bool] | Mapping[str, Any]
Sample = dict[str, Any]

_RECEIPT = re.compile(r"(\d+)_stats\.json")


def dataset(
    urls: str | Sequence[str],
    *,
    decode: Decode = "rgb",
    frames: int | None = None,
    fps: float | None = None,
    sound: bool = False,
    rate: int | None = None,
    mono: bool = False,
    where: Where | None = None,
    shuffle: int = 0,
    seed: int = 0,
    broken: Literal["raise", "skip"] = "raise",
) -> Any:
    """The samples of a dataset, one dict each.

    A sample has `__key__`, `__url__` (its tar), `json` (its metadata), `txt` (its caption, where it has one) and, by
    what is in it, `image`: uint8 (height, width, 3); `video`: uint8 (frames, height, width, 3) with `times`, the second
    at which each frame is shown; `audio`: float32 (channels, samples) with `rate`, samples per second. Arrays that were
    stored (npy) are arrays, subtitles are text, and what is none of these stays bytes, by its extension.

    Args:
        urls: a folder with tars, a tar, a glob or a pattern such as `{00000..00099}.tar`, or several of them, on any
            fsspec path. Of a folder that has receipts (NNNNN_stats.json), only the tars that are complete.
        decode: "rgb" for arrays; "pil" for images as Pillow has them; "raw" for bytes by extension, decoding nothing.
        frames: so many of a video, evenly spaced. None: all.
        fps: so many per second of a video. None: all.
        sound: also `audio` of videos that have no file with their sound beside them, if they have one at all.
        rate: samples per second to convert sounds to. None: as they are.
        mono: mix the channels of a sound into one.
        where: which samples to take, decided by their metadata before anything is decoded: a function of `json`, or a
            dict of column to a value, a (least, most) tuple with None for no bound, a set or list of values, or a
            function of the value. A sample without such a column is not taken.
        shuffle: samples to shuffle at a time; the tars are shuffled too. 0: in order.
        seed: of the shuffling, which differs from epoch to epoch.
        broken: what to do about a sample that cannot be decoded: raise, or warn and skip it.

    Raises:
        MissingExtra: webdataset is not installed.
        ConfigError: there is no tar; an argument is wrong.
        DecodeError: while iterating, of a sample that cannot be decoded; names it and its tar.
    """
    wds = _library()
    if decode not in ("rgb", "pil", "raw"):
        raise ConfigError(f"decode={decode!r} is not one of rgb, pil, raw")
    if frames is not None and frames < 1:
        raise ConfigError(f"frames must be 1 or more, got {frames}")
    tars = [{"url": url} for each in ([urls] if isinstance(urls, str) else urls) for url in _tars(each)]
    decoder = _Decoder(decode=decode, frames=frames, fps=fps, sound=sound, rate=rate, mono=mono, skip=broken == "skip")
    return wds.DataPipeline(
        functools.partial(iter, tars),
        wds.detshuffle(len(tars), len(tars), seed) if shuffle else None,
        wds.split_by_node,
        wds.split_by_worker,
        _opened,
        wds.tariterators.tar_file_expander,
        wds.tariterators.group_by_keys,
        functools.partial(_described, where=where),
        wds.detshuffle(shuffle, shuffle, seed) if shuffle else None,
        decoder,
    )


def _library() -> Any:
    try:
        import webdataset  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"img2dataset_dist.loader needs the package {error.name}: pip install 'img2dataset_dist[loader]'"
        ) from error
    return webdataset


def _tars(url: str) -> list[str]:
    """The tars that a URL names."""
    if "{" in url:
        found = [str(each) for each in _library().shardlists.expand_urls(url)]
    else:
        fs, path = fsspec.core.url_to_fs(storage.absolute(url))
        if any(mark in path for mark in "*?["):
            names = fs.glob(path)
        elif fs.isdir(path):
            names = _complete([str(name) for name in fs.ls(path, detail=False)])
        else:
            names = [path] if fs.exists(path) else []
        found = sorted(names) if storage.is_local(fs) else [fs.unstrip_protocol(name) for name in sorted(names)]
    if not found:
        raise ConfigError(f"urls: there is no tar at {url}")
    return found


def _complete(names: Sequence[str]) -> list[str]:
    """The tars of a folder; only those with a receipt, where there are receipts."""
    done = {match[1] for name in names if (match := _RECEIPT.fullmatch(posixpath.basename(name)))}
    tars = [name for name in names if name.endswith(".tar")]
    return [name for name in tars if posixpath.basename(name)[: -len(".tar")] in done] if done else tars


def _opened(tars: Iterable[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    for each in tars:
        with inputs.open_input(storage.absolute(each["url"]), inputs.WALK_BLOCK) as stream:
            yield {"url": each["url"], "stream": stream}


def _described(samples: Iterable[Sample], where: Where | None) -> Iterator[Sample]:
    """Samples with their JSON parsed, those that are wanted."""
    for sample in samples:
        try:
            sample["json"] = json.loads(sample.get("json", b"{}"))
        except ValueError as error:
            raise DecodeError(
                f"{sample['__key__']} of {sample['__url__']}: its json cannot be read: {error}"
            ) from error
        if where is None or (where(sample["json"]) if callable(where) else _fits(sample["json"], where)):
            yield sample


def _fits(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in row and _is(row[name], rule) for name, rule in wanted.items())


def _is(value: Any, rule: Any) -> bool:
    if callable(rule):
        return bool(rule(value))
    if isinstance(rule, tuple):
        least, most = rule
        return value is not None and (least is None or value >= least) and (most is None or value <= most)
    return value in rule if isinstance(rule, (set, frozenset, list)) else bool(value == rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoder:
    """See the arguments of `dataset`."""

    decode: Decode
    frames: int | None
    fps: float | None
    sound: bool
    rate: int | None
    mono: bool
    skip: bool

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            try:
                yield sample if self.decode == "raw" else self._decoded(sample)
            except RowError as error:
                message = f"{sample['__key__']} of {sample['__url__']}: {error}"
                if not self.skip:
                    raise DecodeError(message) from error
                warnings.warn(message, stacklevel=2)

    def _decoded(self, sample: Sample) -> Sample:
        done: Sample = {}
        roles = {name: _role(name, sample["json"]) for name in sample}
        sound = self.sound and "audio" not in roles.values()
        for name, value in sample.items():
            if isinstance(value, bytes):
                done |= self._part(name, value, role=roles[name], done=done)
                if sound and roles[name] == "video":
                    done |= self._sound(value)
            else:
                done[name] = value
        return done

    def _part(self, name: str, value: bytes, *, role: str, done: Mapping[str, Any]) -> Sample:
        """What becomes of one file of a sample; of several of a kind the first counts, the others stay bytes."""
        if role in done:
            return {name: value}
        if role == "image":
            return {"image": arrays.pillow(value) if self.decode == "pil" else arrays.image(value)}
        if role == "video":
            pictures, times = arrays.video(value, count=self.frames, fps=self.fps)
            return {"video": pictures, "times": times}
        if role == "audio":
            return self._audio(value)
        if role == "subtitles" or name == "txt":
            return {name: value.decode("utf-8", "replace")}
        return {name: _array(value) if name.endswith("npy") else value}

    def _sound(self, value: bytes) -> Sample:
        """The sound in a video; many have none."""
        try:
            return self._audio(value)
        except NoStream:
            return {}

    def _audio(self, value: bytes) -> Sample:
        waves, rate = arrays.audio(value, rate=self.rate, mono=self.mono)
        return {"audio": waves, "rate": rate}


def _role(name: str, row: Any) -> str:
    """What a file of a sample is. A container that may hold a video has only a sound where its metadata say so."""
    role = role_of(name)
    only_sound = role == "video" and isinstance(row, Mapping) and row.get("kind") == "audio"
    return "audio" if only_sound else role


def _array(value: bytes) -> Any:
    try:
        return np.load(io.BytesIO(value), allow_pickle=False)
    except ValueError as error:
        raise DecodeError(f"broken npy: {error}") from error
