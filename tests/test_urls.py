"""A list is hostile input: what `parse` lets through goes to libcurl as it is."""

from __future__ import annotations

import re
import time
from ipaddress import IPv4Address, IPv6Address

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
        "http://1.2.3.4/",
        "http://a.1a/",
        "http://0x.example/",
        "http://foo-.example/",
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
        ("http://a.example./x", "http://a.example/x"),
        ("http://a.example.:81/x", "http://a.example:81/x"),
        ("http://日本語。example。/", "http://xn--wgv71a119e.example/"),
        ("http://127.0.0.1./x", "http://127.0.0.1/x"),
        ("http://[2001:DB8:0:0::7]:8080/x", "http://[2001:db8::7]:8080/x"),
        ("http://[::ffff:127.0.0.1]/x", "http://[::ffff:7f00:1]/x"),
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
        ("http://1.2.3.256/", "malformed host"),
        ("http://1.2.3.4.5/", "malformed host"),
        ("http://256.1/", "malformed host"),
        ("http://1.16777216/", "malformed host"),
        ("http://4294967296/", "malformed host"),
        ("http://09.1/", "malformed host"),
        ("http://1.08/", "malformed host"),
        ("http://a.1/", "malformed host"),
        ("http://a.example.0x7f/", "malformed host"),
        ("http://1.0x7g.1/", "malformed host"),
        ("http://1..1/", "malformed host"),
        ("http://" + "9" * 5000 + "/", "malformed host"),
        ("http://a.example../", "malformed host"),
        ("http://./", "malformed host"),
        ("http://[fe80::1%eth0]/", "malformed host"),
        ("http://[::1::2]/", "malformed"),
        ("http://[1:2:3:4:5:6:7:8:9]/", "malformed"),
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


@pytest.mark.parametrize(
    "host",
    ["127.1", "127.0.1", "0x7f.1", "0X7F.0X1", "2130706433", "017700000001", "0x7f000001", "127.0.0.1.", "0177.0.0x0.1",
     "127.0x000001", "\uff11\uff12\uff17.\uff11", "127\u30020\u30020\u30021"],
)  # fmt: skip
def test_an_ipv4_address_in_any_notation(host: str) -> None:
    found = parse(f"http://{host}:8080/x")
    assert (found.url, found.host) == ("http://127.0.0.1:8080/x", "127.0.0.1")


@given(st.integers(0, 2**32 - 1))
def test_numbers_are_addresses(number: int) -> None:
    address = str(IPv4Address(number))
    assert parse(f"http://{number}/").host == address
    assert parse(f"http://{number:#x}/").host == address
    assert parse(f"http://0{number:o}/").host == address
    assert parse(f"http://{address}/") == (f"http://{address}/", address)


@given(st.integers(0, 2**128 - 1))
@example(0)
@example(0xFFFF7F000001)
@example(0x7F000001)
def test_ipv6_addresses_have_one_form(number: int) -> None:
    found = parse(f"http://[{IPv6Address(number).exploded.upper()}]/")
    assert IPv6Address(found.host) == IPv6Address(number)
    assert re.fullmatch(r"[0-9a-f:]+", found.host)
    assert found == parse(f"http://[{IPv6Address(number).compressed}]/")


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        ("s3://Bucket/a b/é?x#y.jpg", None, "Bucket"),
        (" s3://bucket/x.jpg\n", "s3://bucket/x.jpg", "bucket"),
        ("S3://bucket/X.jpg", "s3://bucket/X.jpg", "bucket"),
        ("s3://bucket_1.a..b:x/k", None, "bucket_1.a..b:x"),
        ("file:///data/x.jpg", None, ""),
        ("file://there/data/x.jpg", None, "there"),
        ("http://a.example/x", None, "a.example"),
        ("https://a.example/é", "https://a.example/%C3%A9", "a.example"),
    ],
)
def test_schemes_that_are_allowed(text: str, url: str | None, host: str) -> None:
    assert parse(text, ("http", "https", "s3", "file")) == (url or text, host)


@pytest.mark.parametrize(
    ("text", "schemes", "message"),
    [
        ("gs://bucket/x", ("http", "https", "s3"), "URL scheme is not one of http, https, s3"),
        ("http://a.example/x", ("https",), "URL scheme is not one of https"),
        ("http://a.example/é", ("s3",), "URL scheme is not one of s3"),
        ("bucket/x", ("s3",), "URL has no scheme"),
        ("s3://bucket/x\ny", ("s3",), "control character in URL"),
        ("s3://bucket/\ud800", ("s3",), "URL is not valid UTF-8"),
        ("s3://bucket/x::file:///etc/passwd", ("s3",), "chained URL"),
        ("s3://[bucket/x", ("s3",), "malformed URL"),
        ("s3://" + "x" * MAX_URL_LENGTH, ("s3",), f"URL longer than {MAX_URL_LENGTH} characters"),
    ],
)
def test_schemes_that_are_not(text: str, schemes: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadUrl, match=message):
        parse(text, schemes)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://A.example/x", "http://a.example"),
        ("http://a.example:80?x:1@b/y", "http://a.example"),
        ("https://a.example:80/", "https://a.example:80"),
        ("HTTPS://a.example:443/é", "https://a.example"),
        ("https://user:pass@a.example:8443/x@y:1", "https://a.example:8443"),
        ("http://[::1]:8080/x", "http://[::1]:8080"),
        ("http://[::1]/x", "http://[::1]"),
        ("http://127.1:81", "http://127.0.0.1:81"),
        ("s3://bucket/x:1", "s3://bucket"),
        ("file:///x", "file://"),
    ],
)
def test_origin(text: str, origin: str) -> None:
    found = parse(text, ("http", "https", "s3", "file"))
    assert found.origin == origin
    assert found.scheme == origin.partition(":")[0]


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
