"""What of the options may be written down."""

from __future__ import annotations

from typing import Any

import pytest

from img2dataset_dist.redaction import HIDDEN, redacted


@pytest.mark.parametrize(
    "name",
    [
        "password", "videopassword", "ap_password", "username", "ap_username", "user", "twofactor", "http_headers",
        "headers", "proxy", "geo_verification_proxy", "token", "hf_token", "api_key", "API-KEY", "openai_api_key", "key",
        "secret", "client_secret", "aws_secret", "cookies", "authorization", "credentials", "passphrase",
    ],
)  # fmt: skip
def test_a_secret_is_hidden(name: str) -> None:
    assert redacted({"args": [{name: "s3cret", "rate": 1}]}) == {"args": [{name: HIDDEN, "rate": 1}]}
    assert redacted({name: {"deep": "s3cret"}}) == {name: HIDDEN}


@pytest.mark.parametrize(
    "value",
    [
        None, True, 256, "mp4", "a@b", "s3://bucket/x@y", ["a", 1], ("a", None), {"password": None},
        {"format": "best", "keyframes": 3, "cookiefile": "/c.txt", "model": "small", "passes": 2, "tokens": 77},
    ],
)  # fmt: skip
def test_the_rest_is_as_it_was(value: Any) -> None:
    assert redacted(value) == value


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pa%40ss@host/list.txt", "https://host/list.txt"),
        ("socks5://me@10.0.0.1:1080", "socks5://10.0.0.1:1080"),
        ("two: http://a:b@x/ http://c:d@y/", "two: http://x/ http://y/"),
    ],
)
def test_a_url_loses_its_user(url: str, shown: str) -> None:
    assert redacted({"a": (url,)}) == {"a": (shown,)}
