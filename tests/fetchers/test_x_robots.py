"""X-Robots-Tag: who is meant, and what is a refusal."""

from __future__ import annotations

import pytest
from support.fetching import SUCCESS, code, fetch
from support.server import NastyServer

from img2dataset_dist.fetchers.x_robots import is_disallowed


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        (["noai"], True),
        (["NoAI"], True),
        (["noindex, nofollow"], True),
        (["none"], True),
        (["googlebot: none"], False),
        (["nofollow, noimageai"], True),
        (["all"], False),
        (["mytoken: noai"], True),
        (["MyToken : noai"], True),
        (["googlebot: noai"], False),
        (["googlebot: noai", "noindex"], True),
        (["googlebot: noindex, otherbot: noai"], False),
        (["googlebot: nofollow, mytoken: noai"], True),
        (["*: noai"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], True),
        (["max-snippet: 10, googlebot: noindex"], False),
        (["", ",", ":", "::", "noai:"], False),
    ],
)
def test_x_robots_tag(headers: list[str], expected: bool) -> None:
    assert is_disallowed(headers, {"mytoken"}, {"noai", "noimageai", "noindex", "noimageindex"}) is expected


def test_x_robots_tag_can_be_turned_off(server: NastyServer) -> None:
    (found,) = fetch([server.url("/robots?tag=noai&off=1")], disallowed_header_directives=[])
    assert code(found) == SUCCESS
    assert found.facts.x_robots_tag == "noai"


def test_the_headers_of_a_refusal_are_kept_and_its_body_is_not_taken(server: NastyServer) -> None:
    (found,) = fetch([server.url("/robots?tag=all&tag=img2dataset-dist:%20noindex&kept=1")])
    assert code(found) == "disallowed_by_header"
    assert found.facts.x_robots_tag == "all; img2dataset-dist: noindex"
    assert not found.facts.bytes


def test_our_names_and_that_of_the_user_are_meant(server: NastyServer) -> None:
    tags = ("img2dataset:%20noai", "img2dataset-dist:%20noai", "mytoken:%20noai", "other:%20noai")
    urls = [server.url(f"/robots?tag={tag}&names=1") for tag in tags]
    found = fetch(urls, user_agent_token="MyToken")
    assert [code(one) for one in found] == ["disallowed_by_header"] * 3 + [SUCCESS]
