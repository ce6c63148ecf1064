"""robots.txt, by the examples of RFC 9309 and by what sites serve in its place."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img2dataset_dist.fetchers import robots
from img2dataset_dist.fetchers.robots import MAX_BYTES, MAX_ORIGINS, RobotsCache, Verdict, robots_url

AGENTS = ("mybot/2.0", "img2dataset-dist", "img2dataset")
ORIGIN = "https://a.example"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def cache_of(body: bytes | str, agents: tuple[str, ...] = AGENTS, status: int | None = 200) -> RobotsCache:
    cache = RobotsCache(agents, clock=Clock())
    cache.store(ORIGIN, status, body.encode() if isinstance(body, str) else body)
    return cache


def verdict(cache: RobotsCache, path: str) -> Verdict:
    found = cache.verdict(ORIGIN + path)
    assert found is not None
    return found


def allowed(body: bytes | str, path: str, agents: tuple[str, ...] = AGENTS) -> bool:
    found = verdict(cache_of(body, agents), path)
    assert found.state == ("allowed" if found.allowed else "disallowed")
    return found.allowed


SIMPLE = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot

EOF
"""


@pytest.mark.parametrize(
    ("agent", "path", "expected"),
    [
        ("other", "/", True),
        ("other", "/x/y.gif", False),
        ("other", "/x/y.gif?z", True),
        ("other", "/example/", False),
        ("other", "/publications/x.gif", True),
        ("foobot", "/", False),
        ("foobot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("FooBot", "/example/other", False),
        ("barbot", "/example/page.html", False),
        ("barbot", "/example/", True),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/x.gif", True),
        ("quxbot", "/example/x.gif", True),
    ],
)
def test_simple_example_of_the_rfc(agent: str, path: str, *, expected: bool) -> None:
    """RFC 9309, 5.1."""
    assert allowed(SIMPLE, path, (agent,)) is expected


def test_longest_match_example_of_the_rfc() -> None:
    """RFC 9309, 5.2."""
    body = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n"
    assert allowed(body, "/example/page/x.gif", ("foobot",))
    assert not allowed(body, "/example/page/disallowed.gif", ("foobot",))


def test_merging_example_of_the_rfc() -> None:
    """RFC 9309, 2.2.1: groups of one agent are one group."""
    body = "user-agent: ExampleBot\ndisallow: /foo\ndisallow: /bar\n\nuser-agent: ExampleBot\ndisallow: /baz\n"
    assert [allowed(body, path, ("examplebot",)) for path in ("/foo", "/bar", "/baz", "/q")] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https%3A%2F%2Ffoo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%e3%83%84", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/foo/bar/baz", "/foo/bar/%62%61%7A"),
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html"),
        ("/path/foo-%24", "/path/foo-$"),
        ("/a%2Fb", "/a%2fb"),
        ("/~joe", "/%7Ejoe/x"),
        ("/x?", "/x?y=1"),
        ("/*?*size=large", "/a/b?x=1&size=large"),
        ("/private", "/public/../private/x"),
        ("/private", "/public/%2E%2e/private"),
        ("/a b", "/a%20b"),
    ],
)
def test_percent_encoding(rule: str, path: str) -> None:
    """RFC 9309, 2.2.2 and 2.2.3."""
    assert not allowed(f"User-agent: *\nDisallow: {rule}\n", path)
    assert allowed(f"User-agent: *\nDisallow: {rule}\n", "/fo")


def test_an_encoded_slash_is_no_slash() -> None:
    assert allowed("User-agent: *\nDisallow: /a/b\n", "/a%2Fb")


def test_allow_wins_ties_and_the_order_does_not_matter() -> None:
    assert allowed("User-agent: *\nDisallow: /page\nAllow: /page\n", "/page")
    assert allowed("User-agent: *\nAllow: /folder\nDisallow: /\n", "/folder/page")
    assert not allowed("User-agent: *\nDisallow: /folder/private\nAllow: /folder\n", "/folder/private/x")


@pytest.mark.parametrize(
    ("rule", "path", "hit"),
    [
        ("/fish*", "/fishheads/yummy.html", True),
        ("/fish", "/Fish.asp", False),
        ("/*.php", "/folder/any.php.file?x", True),
        ("/*.php$", "/x.php", True),
        ("/*.php$", "/x.php?a", False),
        ("/$", "/", True),
        ("/$", "/x", False),
        ("*", "/x", True),
        ("/fish*.php", "/fish/salmon.php?id=1", True),
        ("/a***b", "/axxb", True),
        ("", "/x", False),
    ],
)
def test_wildcards(rule: str, path: str, *, hit: bool) -> None:
    assert allowed(f"User-agent: *\nDisallow: {rule}\n", path) is not hit


def test_robots_txt_itself_is_always_allowed() -> None:
    cache = cache_of("User-agent: *\nDisallow: /\n")
    assert verdict(cache, "/robots.txt").allowed
    assert not verdict(cache, "/robots.txt.jpg").allowed
    cache.store(ORIGIN, 503, b"")
    assert verdict(cache, "/robots.txt").allowed
    assert RobotsCache(AGENTS).verdict("http://new.example/robots.txt") is not None


@pytest.mark.parametrize(
    ("body", "may"),
    [
        ("User-agent: mybot\nAllow: /\n\nUser-agent: *\nDisallow: /", True),
        ("User-agent: *\nAllow: /\n\nUser-agent: MyBot/1.0\nDisallow: /", False),
        ("User-agent: *\nAllow: /\n\nUser-agent: MyBot (the one)\nDisallow: /", False),
        ("User-agent: *\nAllow: /\n\nUser-agent: mybot*\nDisallow: /", False),
        ("User-agent: img2dataset\nDisallow: /", False),
        ("User-agent: IMG2DATASET-dist\nDisallow: /", False),
        ("User-agent: img2dataset\nDisallow: /\nUser-agent: img2dataset-dist\nAllow: /", True),
        ("User-agent: img2dataset\nDisallow: /\nUser-agent: mybot\nDisallow: /x", True),
        ("User-agent: img\nDisallow: /", True),
        ("User-agent: img2\nDisallow: /", True),
        ("User-agent: dist\nDisallow: /", True),
        ("User-agent: bot\nDisallow: /", True),
        ("User-agent: mybot2\nDisallow: /", True),
        ("User-agent: img2dataset-dist-2\nDisallow: /", True),
        ("User-agent:\nDisallow: /", True),
        ("User-agent: other\nUser-agent: mybot\nDisallow: /", False),
        ("User-agent: mybot\n\n\nSitemap: https://a.example/s.xml\n\nUser-agent: other\nDisallow: /", False),
        ("User-agent: mybot\nDisallow:\n\nUser-agent: other\nDisallow: /", True),
        ("User-agent: mybot\nCrawl-delay: 2\n\nUser-agent: other\nDisallow: /", True),
        ("User-agent: *\nContent-Signal: ai-train=no\nDisallow: /\n", False),
        ("Disallow: /\nUser-agent: other\n", True),
        ("Disallow: /", True),
        ("user agent : *\n dissalow /\n", False),
        ("User-agent: * # all\nDisallow: / # everything", False),
        ("User-agent: *\nDisallow: #/", True),
    ],
)
def test_which_group_binds_us(body: str, *, may: bool) -> None:
    assert allowed(body, "/picture.jpg") is may


DISALLOW = b"User-agent: *\nDisallow: /private\n"


@pytest.mark.parametrize(
    "body",
    [
        DISALLOW,
        b"\xef\xbb\xbf" + DISALLOW,
        DISALLOW.replace(b"\n", b"\r"),
        DISALLOW.replace(b"\n", b"\r\n"),
        DISALLOW.rstrip(),
        DISALLOW.decode().encode("utf-16"),
        DISALLOW.decode().encode("utf-16-le"),
        b"\0\0" + DISALLOW + b"\0",
        b"\x0c" + DISALLOW,
        b"# caf\xe9\n" + DISALLOW,
        b"x" * 10**5 + b"\n" + DISALLOW,
        b"Disallow: " + b"x" * (MAX_BYTES - 1000) + b"\n" + DISALLOW,
        DISALLOW + b"y" * 2**20,
        DISALLOW + random.Random(1).randbytes(10 * 2**20),
        b"<!-- \n" + DISALLOW + b"-->",
    ],
    ids=range(15),
)
def test_odd_files_that_still_say_something(body: bytes) -> None:
    began = time.process_time()
    cache = cache_of(body)
    assert not verdict(cache, "/private/x").allowed
    assert verdict(cache, "/public/x").allowed
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 1000,
        b"<!DOCTYPE html><html><body>User-agent: *<br>Disallow: /</body></html>",
        random.Random(2).randbytes(10 * 2**20),
        b"User-agent: *\nDisallow: /" + b"x" * 2**20,
        b"a" * 2**20,
        b" \t" * 2**18,
        b"\r\n" * 2**18,
        b'{"error": "not found"}',
    ],
    ids=range(9),
)
def test_files_that_say_nothing_allow_everything(body: bytes) -> None:
    assert allowed(body, "/picture.jpg")


def test_a_rule_that_is_cut_in_two_by_the_size_limit_is_no_rule() -> None:
    head = b"User-agent: *\nDisallow: /a\n"
    body = head + b"#" * (MAX_BYTES - len(head) - 12) + b"\nDisallow: /public-no-more\n"
    assert body[:MAX_BYTES].endswith(b"\nDisallow: /")
    cache = cache_of(body)
    assert verdict(cache, "/x").allowed
    assert not verdict(cache, "/a").allowed


def test_latin_1_bytes_are_compared_as_bytes() -> None:
    assert not allowed(b"User-agent: *\nDisallow: /caf\xe9\n", "/caf%E9/x.jpg")
    assert allowed(b"User-agent: *\nDisallow: /caf\xe9\n", "/caf")


@pytest.mark.parametrize(
    "pattern",
    ["/" + "*a" * 5000 + "b", "/" + "a*" * 20 + "$", "/" + "*" * 15000 + "b", "/*" + "a" * 50 + "b", "*a" * 9 + "*b$"],
)
def test_absurd_patterns_end_quickly(pattern: str) -> None:
    body = f"User-agent: *\n{f'Disallow: {pattern}' + chr(10)}" + "".join(
        f"Disallow: /*aaaaab{n}*aab{n}\nAllow: /{'*a' * 30}{n}\n" for n in range(8000)
    )
    began = time.process_time()
    cache = cache_of(body)
    assert time.process_time() - began < 2
    began = time.process_time()
    verdict(cache, "/" + "a" * 8000)
    assert time.process_time() - began < 0.3


def test_absurd_patterns_are_read_with_caution() -> None:
    many = "*a" * 30
    assert not allowed(f"User-agent: *\nDisallow: /x/{many}/never\n", "/x/" + "a" * 40)
    assert not allowed(f"User-agent: *\nDisallow: /\nAllow: /{many}\n", "/" + "a" * 40)
    crowd = "".join(f"Disallow: /c{n}*x\n" for n in range(robots.MAX_STAR_RULES))
    assert allowed(f"User-agent: *\n{crowd}", "/c7/y")
    assert not allowed(f"User-agent: *\n{crowd}Disallow: /late/*/never\n", "/late/x")
    assert not allowed(f"User-agent: *\n{crowd}Disallow: *.gif\n", "/any")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10", 10), ("0.5", 0.5), ("1e1", 10), ("3600", 60), ("0", None), ("-5", None), ("inf", None), ("nan", None),
        ("1e999", None), ("soon", None), ("", None), ("1_0", None), ("...", None), ("9" * 5000, None), ("+2", 2),
    ],
)  # fmt: skip
def test_crawl_delay(value: str, seconds: float | None) -> None:
    assert verdict(cache_of(f"User-agent: *\nCrawl-delay: {value}\nDisallow: /x\n"), "/y").crawl_delay == seconds


def test_crawl_delay_is_that_of_our_group_and_the_longest() -> None:
    body = "User-agent: *\nCrawl-delay: 9\n\nUser-agent: mybot\nCrawl-delay: 3\nCrawl delay: 2\n"
    assert verdict(cache_of(body), "/").crawl_delay == 3
    assert verdict(cache_of(body, ("other",)), "/").crawl_delay == 9


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (200, "allowed"), (206, "allowed"), (299, "allowed"),
        (301, "missing"), (304, "missing"), (400, "missing"), (401, "missing"), (403, "missing"), (404, "missing"),
        (410, "missing"), (429, "unreachable"), (500, "unreachable"), (503, "unreachable"), (599, "unreachable"),
        (None, "unreachable"), (0, "unreachable"), (100, "unreachable"), (999, "unreachable"),
    ],
)  # fmt: skip
def test_answers_that_are_no_file(status: int | None, state: str) -> None:
    """RFC 9309, 2.3.1."""
    found = verdict(cache_of("User-agent: *\nDisallow: /x\n", status=status), "/")
    assert found == Verdict(allowed=state != "unreachable", state=state, crawl_delay=None)


def test_answers_hold_for_a_day_and_silence_for_five_minutes() -> None:
    clock = Clock()
    cache = RobotsCache(AGENTS, clock=clock)
    assert cache.verdict("http://a.example/x") is None
    cache.store("http://a.example", None, b"")
    cache.store("http://b.example", 404, b"")
    clock.now += 299
    assert cache.verdict("http://a.example/x") == Verdict(allowed=False, state="unreachable", crawl_delay=None)
    clock.now += 2
    assert cache.verdict("http://a.example/x") is None
    clock.now += 86000
    assert cache.verdict("http://b.example/x") is not None
    clock.now += 400
    assert cache.verdict("http://b.example/x") is None


def test_an_old_answer_is_kept_while_the_site_is_unreachable() -> None:
    """RFC 9309, 2.4."""
    clock = Clock()
    cache = RobotsCache(AGENTS, clock=clock)
    cache.store(ORIGIN, 200, b"User-agent: *\nDisallow: /x\nCrawl-delay: 4\n")
    clock.now += 86401
    assert cache.verdict(f"{ORIGIN}/y") is None
    cache.store(ORIGIN, 503, b"")
    assert verdict(cache, "/y") == Verdict(allowed=True, state="allowed", crawl_delay=4)
    assert verdict(cache, "/x") == Verdict(allowed=False, state="disallowed", crawl_delay=4)
    clock.now += 301
    assert cache.verdict(f"{ORIGIN}/y") is None


@pytest.mark.parametrize(
    ("origin", "url", "same"),
    [
        ("http://a.example", "HTTP://A.Example:80/x", True),
        ("https://a.example:443", "https://a.example/x", True),
        ("http://a.example", "http://user:p@a.example?q=@b.example/", True),
        ("http://[::1]:8080", "http://[::1]:8080/x", True),
        ("http://[::80]", "http://[::80]/x", True),
        ("http://a.example", "https://a.example/x", False),
        ("http://a.example", "http://a.example:8080/x", False),
        ("http://a.example", "http://b.a.example/x", False),
        ("http://a.example", "http://a.example@b.example/x", False),
        ("https://a.example:80", "https://a.example/", False),
    ],
)
def test_origins(origin: str, url: str, *, same: bool) -> None:
    cache = RobotsCache(AGENTS)
    cache.store(origin, 200, b"User-agent: *\nDisallow: /\n")
    assert cache.verdict(url) == (Verdict(allowed=False, state="disallowed", crawl_delay=None) if same else None)


def test_other_schemes_have_no_robots_txt() -> None:
    assert RobotsCache(AGENTS).verdict("s3://bucket/key") == Verdict(allowed=True, state="missing", crawl_delay=None)
    assert robots_url("https://a.example:8080") == "https://a.example:8080/robots.txt"


def test_the_number_of_origins_is_bounded() -> None:
    cache = RobotsCache(AGENTS)
    for number in range(MAX_ORIGINS + 5):
        cache.store(f"http://h{number}.example", 404, b"")
    assert cache.verdict("http://h4.example/") is None
    assert cache.verdict("http://h5.example/") is not None
    assert len(cache._entries) == MAX_ORIGINS


def test_memory_is_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MAX_MEMORY", 100_000)
    big = b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % n for n in range(100))
    cache = RobotsCache(AGENTS)
    for number in range(50):
        cache.store(f"http://h{number}.example", 200, big)
        cache.store(f"http://h{number}.example", 200, big)
        assert cache._memory == sum(entry.cost for entry in cache._entries.values()) <= 100_000
    assert cache.verdict("http://h49.example/7") == Verdict(allowed=False, state="disallowed", crawl_delay=None)
    assert cache.verdict("http://h0.example/7") is None
    monkeypatch.setattr(robots, "MAX_MEMORY", 1)
    cache.store("http://new.example", 200, big)
    assert cache.verdict("http://new.example/7") is not None, "the newest answer must hold, else it is fetched forever"


@given(st.binary(max_size=400), st.text(max_size=50))
def test_any_bytes_and_any_path_give_a_verdict(body: bytes, path: str) -> None:
    cache = cache_of(b"User-agent: *\n" + body)
    path = path.encode("utf-8", "replace").decode()
    assert isinstance(verdict(cache, "/" + path), Verdict)
