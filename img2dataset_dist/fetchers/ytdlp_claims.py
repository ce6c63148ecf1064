"""Which URLs yt-dlp has an extractor of its own for, without yt-dlp in this process.

yt-dlp has some 1,800 extractors, each with regular expressions of its URLs. A short-lived process imports them and
prints them, each with *grams*: four characters of which a URL must have one lot if it is to match. So a URL is held
against the few expressions whose grams it has, and only these are ever compiled.

Some expressions take exponential time for a URL that was made for it, and `re` cannot be stopped. So they are those of
the package `regex` here, which takes the same ones and keeps to a time limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import regex

from img2dataset_dist.errors import EngineError

if sys.version_info >= (3, 11):
    from re import _constants as _codes
    from re import _parser
else:
    import sre_constants as _codes
    import sre_parse as _parser

GRAM = 4
SECONDS = 120.0
"""For the process to say what there is."""

MATCH_SECONDS = 0.05
"""For one expression; they take some microseconds."""


class Claim(NamedTuple):
    """One extractor: the site that it is for, its expressions, and grams of which a URL has one or more; () for any."""

    site: str
    patterns: tuple[str, ...]
    grams: tuple[str, ...]


class Claims:
    """See the module. The table is asked for at once and waited for when it is needed. Thread-safe but for the first.

    Args:
        plugin_dirs: as in `yt_args`: extractors of the user's.
    """

    def __init__(self, plugin_dirs: Sequence[str] = ()) -> None:
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from img2dataset_dist.fetchers.ytdlp_claims import print_table; print_table(sys.argv[1:])"
        )
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(  # noqa: S603 (our own interpreter)
            [sys.executable, "-c", code, *plugin_dirs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._by_gram: dict[str, list[Claim]] = {}
        self._always: list[Claim] = []

    def site(self, url: str) -> str | None:
        """The site that a URL is of, as yt-dlp names its module; None when no extractor of its own wants it.

        None as well for a URL that takes too long: it is fetched like any other, and who matches it again for a page,
        if it is one, has a deadline.

        Raises:
            EngineError: yt-dlp cannot be imported.
        """
        if self._process is not None:
            self._load(self._process)
        text = url.lower()
        seen: set[int] = set()
        for claim in self._candidates(text):
            if id(claim) not in seen:
                seen.add(id(claim))
                try:
                    if any(_compiled(pattern).match(url, timeout=MATCH_SECONDS) for pattern in claim.patterns):
                        return claim.site
                except TimeoutError:
                    return None
        return None

    def _candidates(self, text: str) -> Iterator[Claim]:
        for at in range(len(text) - GRAM + 1):
            yield from self._by_gram.get(text[at : at + GRAM], ())
        yield from self._always

    def close(self) -> None:
        """End the process, if it is still there."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _load(self, process: subprocess.Popen[bytes]) -> None:
        try:
            printed, said = process.communicate(timeout=SECONDS)
            rows = json.loads(printed)
        except (subprocess.TimeoutExpired, ValueError) as error:
            self.close()
            why = said.decode("utf-8", "replace").strip()[-300:] if isinstance(error, ValueError) else "no answer"
            raise EngineError(f"yt-dlp cannot say which sites it knows: {why}") from None
        self._process = None
        for site, patterns, grams in rows:
            claim = Claim(site, tuple(patterns), tuple(grams))
            for gram in grams:
                self._by_gram.setdefault(gram, []).append(claim)
            if not grams:
                self._always.append(claim)


def _compiled(pattern: str) -> regex.Pattern[str]:
    found = _CACHE.get(pattern)
    if found is None:
        if len(_CACHE) >= 512:  # noqa: PLR2004 (of those that some URL came near to)
            _CACHE.clear()
        try:
            found = regex.compile(pattern)
        except regex.error:  # none of yt-dlp's own; URLs of such a plug-in come to it as pages do
            found = _NEVER
        _CACHE[pattern] = found
    return found


_NEVER = regex.compile(r"(?!)")
_CACHE: dict[str, regex.Pattern[str]] = {}


def print_table(plugin_folders: Sequence[str]) -> None:
    """Entry point of the process."""
    from yt_dlp.extractor import gen_extractor_classes  # noqa: PLC0415 (not in our parent)
    from yt_dlp.globals import plugin_dirs  # noqa: PLC0415
    from yt_dlp.plugins import load_all_plugins  # noqa: PLC0415

    plugin_dirs.value = list(plugin_folders)
    load_all_plugins()
    found: list[tuple[str, tuple[str, ...]]] = []
    for kind in gen_extractor_classes():
        patterns = kind._VALID_URL  # noqa: SLF001 (there is no other way)
        if kind.ie_key() != "Generic" and patterns:
            module = str(getattr(kind, "_module", None) or kind.__module__)
            texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
            found.append((module.removeprefix("yt_dlp.extractor.").removeprefix("yt_dlp_plugins.extractor."), texts))
    print(json.dumps(with_grams(found)))


def with_grams(extractors: Sequence[tuple[str, tuple[str, ...]]]) -> list[Claim]:
    """Sites and their expressions, each with the rarest grams that a URL must have."""
    needs = [[needed(_parser.parse(text)) for text in texts] for _, texts in extractors]
    counts = Counter(
        gram for texts in needs for choices in texts for choice in choices for word in choice for gram in _grams(word)
    )
    claims = []
    for (site, texts), choices in zip(extractors, needs, strict=True):
        picked = [_rarest(each, counts) for each in choices]
        grams = sorted(set().union(*picked)) if all(picked) else ()
        claims.append(Claim(site, texts, tuple(grams)))
    return claims


def _rarest(choices: Iterable[frozenset[str]], counts: Counter[str]) -> set[str]:
    """Of the lots of words of which one must occur, the lot with the rarest grams; empty when there is none."""
    lots = [{min(_grams(word), key=lambda gram: (counts[gram], gram)) for word in words} for words in choices]
    return min(lots, key=lambda lot: (max(counts[gram] for gram in lot), len(lot), sorted(lot)), default=set())


def _grams(word: str) -> list[str]:
    return [word[at : at + GRAM] for at in range(len(word) - GRAM + 1)]


def needed(tree: Any) -> list[frozenset[str]]:
    """Lots of words: of each lot, one word or more occurs in any text (in lower case) that the expression matches.

    Args:
        tree: a parsed expression, or a part of one.
    """
    lots: list[frozenset[str]] = []
    word = ""
    for code, value in [*tree, (None, None)]:
        if code is _codes.LITERAL:
            word += chr(value).lower()
            continue
        if len(word) >= GRAM:
            lots.append(frozenset({word}))
        word = ""
        if code is _codes.SUBPATTERN:
            lots += needed(value[3])
        elif code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT) and value[0] > 0:
            lots += needed(value[2])
        elif code is _codes.BRANCH:
            branches = [needed(branch) for branch in value[1]]
            if all(branches):
                lots.append(frozenset().union(*(max(each, key=_weight) for each in branches)))
    return lots


def _weight(words: frozenset[str]) -> tuple[int, int]:
    """How much is known when one of these words must occur."""
    return min(map(len, words)), -len(words)
