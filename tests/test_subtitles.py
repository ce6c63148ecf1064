"""Subtitles: what of VTT and SRT files is read, and what comes out."""

from __future__ import annotations

import contextlib
import html
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist import subtitles
from img2dataset_dist.errors import BadSubtitles
from img2dataset_dist.model import Clip
from img2dataset_dist.subtitles import Line

ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.080 --> 00:00:02.389 align:start position:0%
 
hello<00:00:00.500><c> there</c><00:00:01.000><c> world</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello there world
 

00:00:02.399 --> 00:00:04.150 align:start position:0%
hello there world
this<00:00:02.700><c> is</c><00:00:03.000><c> it</c>

00:00:04.150 --> 00:00:04.160 align:start position:0%
this is it
 

00:00:04.160 --> 00:00:06.000 align:start position:0%
this is it
[Music]

00:00:09.000 --> 00:00:10.000 align:start position:0%
[Music]
"""  # noqa: W293 (YouTube's lines of one space)

VTT = """\ufeffWEBVTT - a title

STYLE
::cue { color: red }

REGION
id:fred

NOTE a remark
of two lines

intro
01:00.000 --> 00:01:02.500 line:0 position:20% align:start
<v.loud Mary>Fish &amp; <i.x>chips</i>,
 2 &lt; 3&nbsp;&#x1F600; </v>

1
100:00:00.000\t-->\t100:00:00.001
x

00:05.000 --> 00:05.000
no time

00:06.000 --> 00:07.000

00:08.000 --> 00:09.000
<c></c>
"""

SRT = """1
00:00:01,5 --> 00:00:02,000  X1:40 X2:600 Y1:20 Y2:50
{\\an8}<font color="#ffff00">A <b>bold</b></font> word
<3 if a < b > c

2
00:00:02,500 --> 00:00:03,000
no empty line after this
3
00:00:03,500 --> 00:00:04,000
1984

4
00:00:05 --> 00:00:06
fine
"""


def test_captions_that_scroll_come_once() -> None:
    assert subtitles.parse(ROLLING) == [
        Line(0.08, 2.399, "hello there world"),
        Line(2.399, 4.16, "this is it"),
        Line(4.16, 6.0, "[Music]"),
        Line(9.0, 10.0, "[Music]"),
    ]


def test_vtt() -> None:
    assert subtitles.parse(VTT) == [
        Line(60.0, 62.5, "Fish & chips,\n2 < 3 \U0001f600"),
        Line(360000.0, 360000.001, "x"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_srt(end: str) -> None:
    assert subtitles.parse(SRT.replace("\n", end)) == [
        Line(1.5, 2.0, "A bold word\n<3 if a < b > c"),
        Line(2.5, 3.0, "no empty line after this"),
        Line(3.5, 4.0, "1984"),
        Line(5.0, 6.0, "fine"),
    ]


def test_the_same_again_without_a_pause_is_one_line() -> None:
    text = "1\n00:00:00,000 --> 00:00:01,000\nNo!\n\n2\n00:00:01,000 --> 00:00:02,000\nNo!\n"
    assert subtitles.parse(text) == [Line(0.0, 2.0, "No!")]
    assert len(subtitles.parse(text.replace("00:00:01,000 -->", "00:00:01,500 -->"))) == 2


def test_cues_are_sorted_and_may_overlap() -> None:
    text = "WEBVTT\n\n00:03.000 --> 00:09.000\nb\n\n00:01.000 --> 00:05.000\na\n"
    assert [line.text for line in subtitles.parse(text)] == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["", "\n", "a cat on a mat", "<!doctype html><!-- x --><p>", "1\n2 --> 3\nx", "WEBVTTX\n"]
)
def test_what_is_neither(text: str) -> None:
    with pytest.raises(BadSubtitles, match="neither VTT nor SRT"):
        subtitles.parse(text)


@pytest.mark.parametrize("text", ["WEBVTT", "\ufeffWEBVTT\tx\r\n", "1\n00:00:02,000 --> 00:00:01,000\nback\n"])
def test_nothing_is_said(text: str) -> None:
    assert subtitles.parse(text) == []


def test_clip_groups_languages_by_time() -> None:
    lines = {
        "en": [Line(0, 1, "one"), Line(1, 2.5, "two\nmore"), Line(5, 6, "three")],
        "de": [Line(1, 2.5, "zwei"), Line(2.4, 3, "drei")],
    }
    assert subtitles.clip(lines, Clip(1, 5)) == [
        {"start": "00:00:01.000", "end": "00:00:02.500", "lines": {"en": ["two", "more"], "de": ["zwei"]}},
        {"start": "00:00:02.400", "end": "00:00:03.000", "lines": {"de": ["drei"]}},
    ]
    assert len(subtitles.clip(lines)) == 4
    assert subtitles.clip({}, Clip(0, 1)) == []


def test_of_a_clip_the_times_of_its_source() -> None:
    said = subtitles.clip({"en": [Line(1, 2, "a"), Line(4, 5, "b")]}, Clip(0.5, 3), begin=10)
    assert said == [{"start": "00:00:11.000", "end": "00:00:12.000", "lines": {"en": ["a"]}}]


def test_what_is_said_within_a_part_counts_from_its_start() -> None:
    lines = [Line(0, 1, "before"), Line(1.5, 3, "begins before"), Line(4, 9, "ends behind"), Line(6, 7, "behind")]
    assert subtitles.within(lines, Clip(2, 6)) == [Line(0, 1, "begins before"), Line(2, 4, "ends behind")]


def test_records() -> None:
    assert subtitles.records([Line(3661.5, 3662, "a\nb")]) == [
        {"start": "01:01:01.500", "end": "01:01:02.000", "lines": ["a", "b"]}
    ]


def test_dump_of_a_part_counts_from_its_start() -> None:
    lines = [Line(0, 1, "before"), Line(9, 11, "a < b & c"), Line(12, 30, "long"), Line(19.9999, 20, "gone")]
    assert subtitles.dump_vtt(lines, Clip(10, 20)) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &lt; b &amp; c\n\n00:00:02.000 --> 00:00:10.000\nlong\n"
    )
    assert subtitles.parse(subtitles.dump_vtt([])) == []


words = st.text(st.characters(codec="utf-8"), max_size=20).map(subtitles._plain)
said = st.lists(words.filter(lambda text: text and "-->" not in text), min_size=1, max_size=3).map("\n".join)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(101, 5000), said), max_size=8))
def test_what_is_dumped_is_read_again(cues: list[tuple[int, int, str]]) -> None:
    lines, now = [], 0
    for length, pause, text in cues:
        lines.append(Line(now / 1000, (now + length) / 1000, text))
        now += length + pause
    assert subtitles.parse(subtitles.dump_vtt(lines)) == lines


parts = st.sampled_from([
    "WEBVTT", "\n", "\n\n", "\r", "00:00:01.000 --> 00:00:02.000", "0:1,2 --> 9999:59:59", "-->", "1", "<c>", "<00:00:01.5>",
    "&amp;", "&#10;", "{\\an8}", "NOTE", " ", "\x00", "\u2028", "<", ">", "hello",
])  # fmt: skip


@given(st.lists(parts | st.text(max_size=10), max_size=60).map("".join))
def test_any_text_gives_sound_lines_or_an_error(text: str) -> None:
    try:
        lines = subtitles.parse(text)
    except BadSubtitles:
        return
    assert lines == sorted(lines, key=lambda line: line[:2])
    for line in lines:
        assert 0 <= line.start < line.end
        assert line.text
        assert "\n\n" not in line.text
        assert all(row == row.strip() and row for row in line.text.split("\n"))


def test_a_hostile_file_takes_no_time() -> None:
    began = time.monotonic()
    for text in (
        "<a" * 500_000,
        "00:00:" * 200_000,
        "WEBVTT\n\n00:00.000 --> 00:01.000\n" + "<c" * 500_000 + html.escape("<") * 10,
    ):
        with contextlib.suppress(BadSubtitles):
            subtitles.parse(text)
    assert time.monotonic() - began < 5
