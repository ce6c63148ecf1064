"""Media that a dataset has already: each row's parts out of its tar, which is read once and from front to back.

The samples of a tar are in the order in which they were fetched, its rows are sorted by key. So it is the rows that
wait until their sample comes, with nothing but what their columns hold, and a store is asked for a tar as for one long
file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from img2dataset_dist import inputs
from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import DiskFull, EmptyBody, FetchError, InputError, NotFound, RowError, TooLarge
from img2dataset_dist.fetchers import FetchContext
from img2dataset_dist.fetchers.budget import Budget
from img2dataset_dist.fetchers.profiles import HostProfile
from img2dataset_dist.model import Failure, Fetched, FetchFacts, Item, MediaFile, Part, Sample
from img2dataset_dist.tars import Member, Tar, is_a_name, role_of

IDLE = 0.01
"""Seconds before somebody is asked again who had nothing to do for us."""

ANY_LANGUAGE = "und"
"""BCP 47: of subtitles whose name does not say."""

_OURS = frozenset({"json", "txt"})
"""Parts that are metadata, which the reader has, and which are written anew."""

_FILMS = frozenset({"video", "audio"})
"""Kinds of parts that do not go on beside others: each is what the job is about, or it is not."""

_ORDER = {
    "image": ("image", "other"),
    "video": ("video", "image", "other", "audio"),
    "audio": ("audio", "video", "other", "image"),
    "any": ("video", "image", "audio", "other"),
}
"""By what is wanted: which part of a sample is it, of those that are there."""

_END = object()


class StoredFetcher:
    """See `Fetcher`. Reads from one tar at a time, that of the shard whose rows come."""

    def __init__(self, config: FetchConfig, context: FetchContext) -> None:
        assert context.job is not None
        self._media = context.job.media.media
        self._limit = config.max_body_bytes
        self._context = context
        self._budget = context.budget or Budget(size=2**62, rows=2**62)
        self._back: Item | None = None
        self._stopped = False
        self._alive = time.monotonic()

    def fetch(self, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """See `Fetcher.fetch`."""
        while (item := self._take(items)) is not None:
            self._back = item
            assert item.stored is not None
            yield from self._shard(item.shard_id, item.stored.tar, items)

    def stop(self) -> None:
        """See `Fetcher.stop`."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is open between shards."""

    @property
    def alive(self) -> float:
        """See `Fetcher.alive`."""
        return self._alive

    def profiles(self) -> list[HostProfile]:
        """No host was asked."""
        return []

    def _still(self) -> bool:
        """Say that we live; whether we should."""
        self._alive = time.monotonic()
        return not self._stopped

    def _take(self, items: Iterator[Item | None]) -> Item | None:
        """The next row, when there is room for one; None when none follows."""
        item, self._back = self._back, None
        while item is None and self._still():
            if not self._budget.full:
                following = next(items, _END)
                if isinstance(following, Item):
                    return following
                if following is _END:
                    return None
            time.sleep(IDLE)
        return item

    def _of_shard(self, shard_id: int, items: Iterator[Item | None]) -> Iterator[Item]:
        """The rows of one shard; fewer when it has failed elsewhere."""
        while (item := self._take(items)) is not None:
            assert item.stored is not None
            if item.shard_id != shard_id:
                self._back = item
                return
            yield item
            if item.stored.last:
                return

    def _shard(self, shard_id: int, path: str, items: Iterator[Item | None]) -> Iterator[Fetched]:
        """All rows of one shard. What is wrong with the tar as a whole ends it."""
        rows = _Rows(self._of_shard(shard_id, items))
        try:
            with inputs.open_input(path, inputs.WALK_BLOCK) as stream:
                yield from self._walk(path, Tar(path, stream), rows)
        except (InputError, OSError) as error:
            self._context.fail(shard_id, error if isinstance(error, InputError) else InputError(f"{path}: {error}"))
        missing = Failure.of(NotFound("the tar has no sample of this key"))
        rows.done += [Fetched(item=item, facts=_facts(item), failure=missing) for item in rows.left()]
        yield from rows.done

    def _walk(self, path: str, tar: Tar, rows: _Rows) -> Iterator[Fetched]:
        """The samples of a tar that have a row, but for the last one: it waits until all of the tar has been seen.

        Raises:
            InputError: the tar is torn, or has a sample that no row told of, so that it would be lost.
        """
        members = _Members(tar.members())
        strange: list[str] = []
        while members.ahead is not None and self._still():
            key = members.ahead.key
            item = rows.find(key)
            if not rows.ended:
                yield from rows.done
                rows.done.clear()
            if item is not None:
                try:
                    fetched = self._row(item, tar, members.of(key))
                except (InputError, OSError) as error:
                    rows.done.append(Fetched(item=item, failure=Failure.of(FetchError(str(error)))))
                    raise
                if rows.complete:
                    rows.done.append(fetched)
                else:
                    yield fetched
            elif key not in rows.seen and is_a_name(key):  # else its row has failed, under another key
                strange.append(key)
            for _ in members.of(key):
                pass  # what is left of it
        if strange:
            raise InputError(
                f"{path}: {len(strange)} sample(s), {strange[0]} for one, have no row in the parquet file beside it, "
                "so that is of another tar; remove it to go by the tar alone"
            )

    def _row(self, item: Item, tar: Tar, members: Iterator[Member]) -> Fetched:
        taking = _Taking(tar, self._budget, self._limit, self._still)
        try:
            if self._context.spool is None:
                body, beside = self._body(taking, members)
                return Fetched(item=item, facts=replace(_facts(item), bytes=len(body)), body=body, beside=beside)
            with _filling():
                folder = self._context.spool.folder()
            file, beside = self._file(taking, members, folder)
            return Fetched(item=item, facts=replace(_facts(item), bytes=file.size), file=file, beside=beside)
        except RowError as error:
            self._budget.give(taking.held)
            return Fetched(item=item, facts=replace(_facts(item), bytes=None), failure=Failure.of(error))
        except BaseException:
            self._budget.give(taking.held)
            raise

    def _body(self, taking: _Taking, members: Iterator[Member]) -> tuple[bytes, tuple[Part, ...]]:
        """The image of a sample and what lies beside it, in memory."""
        names, parts = [], {}
        for each in members:
            names.append(each.extension)
            if each.extension not in _OURS and role_of(each.extension) not in _FILMS:
                parts[each.extension] = b"".join(taking.chunks(each))
        main = self._main(names)
        body = parts.pop(main)
        _check_size(main, len(body))
        taking.keep(len(body))
        return body, tuple(Part(extension=name, size=len(data), data=data) for name, data in parts.items())

    def _file(self, taking: _Taking, members: Iterator[Member], folder: str) -> tuple[MediaFile, tuple[Part, ...]]:
        """The media of a sample, what belongs to them and what lies beside them, as files."""
        try:
            return self._files(taking, members, folder)
        except BaseException:
            assert self._context.spool is not None
            self._context.spool.remove(folder)
            raise

    def _files(self, taking: _Taking, members: Iterator[Member], folder: str) -> tuple[MediaFile, tuple[Part, ...]]:
        numbered = ((each, os.path.join(folder, f"stored-{number}")) for number, each in enumerate(members))
        paths = {each.extension: taking.spool(each, path) for each, path in numbered if each.extension not in _OURS}
        main = self._main(list(paths))
        path = paths.pop(main)
        _check_size(main, os.path.getsize(path))
        subtitles = {name.rpartition(".")[0] or ANY_LANGUAGE: name for name in paths if role_of(name) == "subtitles"}
        texts = {language: paths.pop(name) for language, name in subtitles.items()}
        sounds = [name for name in paths if role_of(name) == "audio"]
        sound = paths.pop(sounds[0]) if sounds and role_of(main) == "video" and self._media != "audio" else None
        file = MediaFile(path=path, size=taking.held, sound=sound, subtitles=texts)
        others = {name: each for name, each in paths.items() if role_of(name) not in _FILMS}
        beside = (Part(extension=name, size=os.path.getsize(each), path=each) for name, each in others.items())
        return file, tuple(beside)

    def _main(self, names: Sequence[str]) -> str:
        """Which part it is that is wanted: by its kind, and rather `jpg` than `mask.png`.

        Raises:
            NotFound: none.
        """
        order = _ORDER[self._media]
        media = [name for name in names if role_of(name) in order]
        if not media:
            what = "file" if self._media == "any" else self._media
            raise NotFound(f"no {what} in the sample: it has {', '.join(names)[:200] or 'only metadata'}")
        return min(media, key=lambda name: (order.index(role_of(name)), "." in name))


class _Rows:
    """Rows of a shard that wait for their samples.

    Attributes:
        done: what has come of rows and is not given out yet: those that had failed before.
        seen: keys of all that have come.
        ended: whether no more will.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._waiting: dict[str, list[Item]] = {}
        self.done: list[Fetched] = []
        self.seen: set[str] = set()
        self.ended = False

    @property
    def complete(self) -> bool:
        """Whether each row of the shard has found its sample."""
        return self.ended and not self._waiting

    def find(self, key: str) -> Item | None:
        """The row of a sample; those before it are taken in. None if there is none, or another sample has it."""
        while key not in self.seen and not self.ended:
            self._take()
        found = self._waiting.get(key)
        if not found:
            return None
        item = found.pop(0)
        if not found:
            del self._waiting[key]
        return item

    def left(self) -> list[Item]:
        """The rows that no sample came for, when all have been taken in."""
        while not self.ended:
            self._take()
        return [item for items in self._waiting.values() for item in items]

    def _take(self) -> None:
        item = next(self._items, None)
        if item is None:
            self.ended = True
            return
        assert item.stored is not None
        self.ended = item.stored.last
        self.seen.add(item.key)
        if item.failure is not None:
            self.done.append(Fetched(item=item, facts=item.stored.facts, failure=item.failure))
        else:
            self._waiting.setdefault(item.key, []).append(item)


class _Members:
    """The files of a tar; `ahead` is the next one, whose header is read after the content of the one before."""

    def __init__(self, members: Iterator[Member]) -> None:
        self._members = members
        self.ahead = next(members, None)

    def of(self, key: str) -> Iterator[Member]:
        """Those that follow with this key, that is, of one sample."""
        while self.ahead is not None and self.ahead.key == key:
            yield self.ahead
            self.ahead = next(self._members, None)


class _Taking:
    """Reads the parts of one sample; `held` are the bytes of the budget that it has for them."""

    def __init__(self, tar: Tar, budget: Budget, limit: int, still: Callable[[], bool]) -> None:
        self._tar = tar
        self._budget = budget
        self._limit = limit
        self._still = still
        self.held = 0

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The content of a part, when there is room for it.

        Raises:
            RowError: it is larger than bodies may be.
            InputError: the tar is torn.
        """
        if self.held + member.size > self._limit:
            raise TooLarge("body too large")
        while not self._budget.take(member.size, force=self.held > 0):
            if not self._still():
                raise FetchError("stopped")
            time.sleep(IDLE)
        self.held += member.size
        for chunk in self._tar.content(member):
            self._still()
            yield chunk

    def keep(self, size: int) -> None:
        """So many bytes stay; give the others back."""
        self._budget.give(self.held - size)
        self.held = size

    def spool(self, member: Member, path: str) -> str:
        """Copy a part to a new file; its path."""
        with _filling():
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in self.chunks(member):
                view = memoryview(chunk)
                while view:
                    with _filling():
                        view = view[os.write(file, view) :]
        finally:
            os.close(file)
        return path


@contextmanager
def _filling() -> Iterator[None]:
    """What goes wrong here is the fault of our disk, not of the tar."""
    try:
        yield
    except OSError as error:
        raise DiskFull(f"tmp_dir: {error.strerror}") from error


def _check_size(name: str, size: int) -> None:
    if size == 0:
        raise EmptyBody(f"the {name} of the sample is empty")


def _facts(item: Item) -> FetchFacts:
    assert item.stored is not None
    return item.stored.facts


def accompanied(sample: Sample, beside: tuple[Part, ...], encode_format: str) -> Sample:
    """The sample with the parts of an earlier dataset that nothing new has taken the place of.

    A clip gets none: they are of the whole.
    """
    if not beside or sample.failure is not None or sample.pieces:
        return sample
    taken = {part.extension for part in sample.parts}
    if sample.data is not None:
        taken.add(sample.extension or encode_format)
    return replace(sample, parts=(*sample.parts, *(part for part in beside if part.extension not in taken)))
