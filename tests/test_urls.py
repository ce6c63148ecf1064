"""A list is hostile input: what `parse` lets through goes to libcurl as it is."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from img2dataset_dist.errors import BadUrl
from img2dataset_dist.urls import MAX_URL_LENGTH, Url, parse

LONGEST = "http://a.example/".ljust(MAX_URL_LENGTH, "x")


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/x.jpg",
        "https://a.example/x.jpg",
        "http://a.example",
        "http://a.example?x=1",
        "http://a.example:8080/x",
        "http://a.example:65535/",
        "http://a/",
        "http://127.0.0.1:80/x",
        "http://[::1]/",
        "http://[2001:db8::7]:8080/x",
        "http://a_b.example/",
        "http://xn--bcher-kva.example/",
        "http://a.example./x",
        "http://a.example/a%20b%C3%A9%2Fc?x=%26",
        "http://a.example/100%/%zz",
        "http://a.example/a,b;c=d'(e)*!$&+@:~_[1].jpg?q=a/b?c,d",
        "http://a.example//double//slash",
        "http://a.example/../up?a..b",
        "http://user:pass@a.example/",
        "http://user%40mail:p%2Fw@a.example/",
        LONGEST,
    ],
)
def test_fine_urls_stay_as_they_are(url: str) -> None:
    assert parse(url).url == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("  http://a.example/x \r\n", "http://a.example/x"),
        ("HTTP://a.example/x", "http://a.example/x"),
        ("HttpS://user@A.Example/X", "https://user@a.example/X"),
        ("http://a.example/x#fragment", "http://a.example/x"),
        ("http://a.example/?q=1#fragment?y", "http://a.example/?q=1"),
        ("http://a.example#fragment", "http://a.example/"),
        ("http://a.example/a b.jpg", "http://a.example/a%20b.jpg"),
        ("http://a.example/é/日.jpg?q=ü", "http://a.example/%C3%A9/%E6%97%A5.jpg?q=%C3%BC"),
        ("http://a.example/\u3000\x85\u2028", "http://a.example/%E3%80%80%C2%85%E2%80%A8"),
        ('http://a.example/"<>`{}|^\\', "http://a.example/%22%3C%3E%60%7B%7D%7C%5E%5C"),
        ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
        ("http://BÜCHER.example/x", "http://xn--bcher-kva.example/x"),
        ("http://日本語。example/", "http://xn--wgv71a119e.example/"),
        ("http://\uff41.example/", "http://a.example/"),
        ("http://a.example:00080/x", "http://a.example:80/x"),
        ("http://a.example:/x", "http://a.example/x"),
        ("http://us er:p w@a.example/é", "http://us%20er:p%20w@a.example/%C3%A9"),
        ("http://me@mail.example@a.example/", "http://me%40mail.example@a.example/"),
        ("http://good.example\\@a.example/", "http://good.example%5C@a.example/"),
    ],
)
def test_normal_form(text: str, url: str) -> None:
    assert parse(text).url == url


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("http://A.Example/x", "a.example"),
        ("http://A.Example:80/x", "a.example"),
        ("http://A.Example?x@b.example", "a.example"),
        ("http://user:pass@A.Example:80/é", "a.example"),
        ("http://one@two@a.example/", "a.example"),
        ("http://bücher.example", "xn--bcher-kva.example"),
        ("http://[::FFFF]:80/x", "::ffff"),
        ("http://127.0.0.1:8000/x", "127.0.0.1"),
    ],
)
def test_host(text: str, host: str) -> None:
    assert parse(text).host == host


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing URL"),
        ("", "missing URL"),
        (" \t\n", "missing URL"),
        ("a.example/x.jpg", "URL has no scheme"),
        ("//a.example/x.jpg", "URL has no scheme"),
        ("/photos/x.jpg", "URL has no scheme"),
        ("\u3000http://a.example/", "URL has no scheme"),
        ("ftp://a.example/x.jpg", "URL scheme is not http or https"),
        ("javascript:alert(1)", "URL scheme is not http or https"),
        ("data:image/png;base64,AAAA", "URL scheme is not http or https"),
        ("file:///etc/passwd", "URL scheme is not http or https"),
        ("s3://bucket/x.jpg", "URL scheme is not http or https"),
        ("localhost:8000/x", "URL scheme is not http or https"),
        ("http:", "URL has no host"),
        ("http://", "URL has no host"),
        ("http:///x.jpg", "URL has no host"),
        ("http:a.example/x", "URL has no host"),
        ("http://?x", "URL has no host"),
        ("http://user@/x", "URL has no host"),
        ("http://:80/x", "URL has no host"),
        ("http://a..b/", "malformed host"),
        ("http://.a/", "malformed host"),
        ("http://-a.example/x#", "malformed host"),
        ("http://a b.example/", "malformed host"),
        ("http://a.example%00/", "malformed host"),
        ("http://a.ex%2fample/", "malformed host"),
        ("http://" + "é" * 64 + ".example/", "malformed host"),
        ("http://é..example/", "malformed host"),
        ("http://\ud800.example/", "malformed host"),
        ("http://[::1%25eth0]/", "malformed"),
        ("http://[::1/", "malformed URL"),
        ("http://[nonsense]/", "malformed"),
        ("http://a\u2100b.example/", "malformed URL"),
        ("http://a.example:65536/", "malformed URL"),
        ("http://a.example:99999/x", "malformed URL"),
        ("http://a.example:123456789/", "malformed URL"),
        ("http://a.example:-1/", "malformed URL"),
        ("http://a.example:x/", "malformed URL"),
        ("http://a.example:\u0663/", "malformed URL"),
        ("http://a.example/\x00", "control character in URL"),
        ("http://a.example/\x7f", "control character in URL"),
        ("http://a.example/\x1b[0m", "control character in URL"),
        ("http://a.exa\tmple/", "control character in URL"),
        ("http://a.example/ HTTP/1.1\r\nHost: evil\r\n\r\nGET /", "control character in URL"),
        ("http://a.example\r\n/", "control character in URL"),
        ("\x00http://a.example/", "control character in URL"),
        ("http://a.example/\ufffd", "URL is not valid UTF-8"),
        ("http://a.example/half\ud83d", "URL is not valid UTF-8"),
        ("http://a.example/?\ud83d", "URL is not valid UTF-8"),
        ("http://us\ud83der@a.example/", "URL is not valid UTF-8"),
        ("http://a.example/" + "x" * 10_000, f"URL longer than {MAX_URL_LENGTH} characters"),
        (LONGEST + "x", f"URL longer than {MAX_URL_LENGTH} characters"),
        ("http://a.example/" + "é" * 3_000, f"URL longer than {MAX_URL_LENGTH} characters"),
    ],
)
def test_what_is_refused(text: str | None, message: str) -> None:
    with pytest.raises(BadUrl, match=message) as caught:
        parse(text)
    assert text is None or "example" not in str(caught.value), "messages are counted, so they do not hold the URL"


def is_usable(found: Url) -> bool:
    return (
        re.fullmatch(r"https?://[!-~]+", found.url) is not None
        and len(found.url) <= MAX_URL_LENGTH
        and re.fullmatch(r"[0-9a-z:._-]+", found.host) is not None
        and "#" not in found.url
    )


PIECES = st.sampled_from(
    ["http://", "HTTPS://", "a.example", "[::1]", "é", "日", "。", ".", "..", ":80", ":65536", ":٣", ":", "@", "/", "\\", "?",
     "#", "%", "%41", " ", "\t", "\r\n", "\0", "\x80", "\ufffd", "\ud800", "\xad", "ß", "-", "_", "[", "]", "//", "x"]
)  # fmt: skip
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=40)
TEXTS = st.one_of(
    ANYTHING,
    ANYTHING.map("http://".__add__),
    ANYTHING.map("https://a.example/".__add__),
    st.lists(PIECES | st.characters(), max_size=12).map("".join),
    st.lists(PIECES, max_size=12).map(lambda pieces: "http://a" + "".join(pieces)),
)


@given(TEXTS)
@example("http://a.example:٣/")
@example("http://\xad.example/")
@example("http://a@b@c:80/")
def test_anything_is_a_usable_url_or_a_bad_url(text: str) -> None:
    try:
        found = parse(text)
    except BadUrl:
        return
    assert is_usable(found), found
    assert parse(found.url) == found


@pytest.mark.parametrize("text", ["http://" + "a" * 8000 + "!", "http://" + "a." * 4000 + "!", "http://" + "-" * 8000])
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    with pytest.raises(BadUrl):
        parse(text)
    assert time.process_time() - start < 0.5
