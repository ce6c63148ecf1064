"""Rules by host: what files may say, what they mean together, and that secrets stay secret."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import fsspec
import pytest

from img2dataset_dist.config import FetchConfig
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.fetchers.host_table import HostRule, HostTable, load_host_table


def load(tmp_path: Path, text: str, ignore: str | None = None, name: str = "table.yaml") -> HostTable:
    table, hosts = tmp_path / name, tmp_path / "ignore.txt"
    table.write_text(text, encoding="utf-8")
    if ignore is not None:
        hosts.write_text(ignore, encoding="utf-8")
    return load_host_table(FetchConfig(host_table=str(table), ignore_hosts=None if ignore is None else str(hosts)))


EXAMPLE = """
"*": {rate: 5}
"*.example.org": {connections: 8, headers: {X-From: org, X-Kept: "1"}}
"*.img.example.org": {connections: 4}
api.example.org:
  connections: 2
  rate: 0.5
  headers: {Authorization: "Bearer ${TOKEN}", x-from: api}
  proxy: "http://me:${PASSWORD}@10.0.0.1:3128"
bad.example: {ignore: true}
"""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostTable:
    monkeypatch.setenv("TOKEN", "s3cret")
    monkeypatch.setenv("PASSWORD", "p@ss/w:rd")
    return load(tmp_path, EXAMPLE, "# nobody\n\n*.slow.example  # all of it\nwww.rude.example\n")


def test_rules_are_merged_field_by_field(example: HostTable) -> None:
    org = (("X-From", "org"), ("X-Kept", "1"))
    assert example.rule("other.example") == HostRule(rate=5)
    assert example.rule("example.org") == HostRule(rate=5, connections=8, headers=org)
    assert example.rule("deep.in.example.org") == HostRule(rate=5, connections=8, headers=org)
    assert example.rule("img.example.org") == HostRule(rate=5, connections=4, headers=org)
    assert example.rule("a.img.example.org") == HostRule(rate=5, connections=4, headers=org)
    assert example.rule("notexample.org") == HostRule(rate=5)
    assert example.rule("api.example.org") == HostRule(
        connections=2,
        rate=0.5,
        headers=(("X-Kept", "1"), ("Authorization", "Bearer s3cret"), ("x-from", "api")),
        proxy="http://me:p%40ss%2Fw%3Ard@10.0.0.1:3128",
    )


def test_hosts_are_found_however_they_are_spelled(example: HostTable) -> None:
    assert example.rule("API.Example.ORG.") == example.rule("api.example.org")


def test_ignored_hosts(example: HostTable) -> None:
    hosts = ("bad.example", "slow.example", "a.slow.example", "www.rude.example", "a.b.slow.example.")
    assert [example.rule(host).ignore for host in hosts] == [True] * 5
    others = ("sub.bad.example", "notslow.example", "rude.example", "x.www.rude.example", "example")
    assert [example.rule(host).ignore for host in others] == [False] * 5


def test_no_secret_is_shown(example: HostTable) -> None:
    for text in (repr(example), str(example), repr(example.rule("api.example.org")), f"{example.rules}"):
        assert "s3cret" not in text
        assert "p%40ss" not in text
        assert "Authorization" in text
        assert "10.0.0.1:3128" in text
    assert "'socks5://10.0.0.1'" in repr(HostRule(proxy="socks5://10.0.0.1"))


def test_a_table_travels_to_workers(example: HostTable) -> None:
    example.rule("a.example")
    other = pickle.loads(pickle.dumps(example))
    assert other == example
    assert other.rule("api.example.org") == example.rule("api.example.org")


def test_lookups_are_fast_and_what_they_remember_is_bounded() -> None:
    table = HostTable(rules={"*": HostRule(rate=1), "*.example": HostRule(connections=1)}, ignored=frozenset())
    for number in range(70_000):
        table.rule(f"h{number}.example")
    assert len(table._known) <= 65536
    began = time.process_time()
    for _ in range(100_000):
        table.rule("h69999.example")
    assert time.process_time() - began < 0.5


def test_no_files_no_rules() -> None:
    table = load_host_table(FetchConfig())
    assert table == HostTable(rules={}, ignored=frozenset())
    assert table.rule("a.example") == HostRule()


def test_json_and_other_stores(tmp_path: Path) -> None:
    rules = {"A.example": {"rate": 1, "connections": None, "headers": {"X-Number": 7}}}
    assert load(tmp_path, json.dumps(rules), name="t.json").rules == {
        "a.example": HostRule(rate=1, headers=(("X-Number", "7"),))
    }
    with fsspec.open("memory://tables/t.yml", "wb") as file:
        file.write(b"\xef\xbb\xbfa.example: {rate: 2}\n")
    assert load_host_table(FetchConfig(host_table="memory://tables/t.yml")).rule("a.example").rate == 2
    assert load(tmp_path, "# nothing yet\n").rules == {}


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("A.Example", "a.example"),
        ("a.example.", "a.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("[2001:DB8:0::7]", "2001:db8::7"),
        ("localhost", "localhost"),
        ("*", "*"),
    ],
)
def test_hosts_are_normalised(tmp_path: Path, written: str, key: str) -> None:
    table = load(tmp_path, json.dumps({written: {"rate": 1}}), name="t.json")
    assert set(table.rules) == {key}
    host = key.replace("*.", "a.").replace("*", "anything.example")
    assert table.rule(host).rate == 1
    assert table.rule(host.upper()).rate == 1


@pytest.mark.parametrize(
    "host",
    [
        "http://a.example", "a.example:80", "a.example/x", "a b.example", "me@a.example", "*.*.example", "a.*.example",
        "*a.example", "a..example", "", "*.", "[::1]:80", "1::2::3::x", "a.example?x", "a\\b", "-",
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"host_table=.*t\.json.*host") as caught:
        load(tmp_path, json.dumps({host: {"rate": 1}}), name="t.json")
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"connections": 0}, "connections must be"),
        ({"connections": True}, "connections must be"),
        ({"connections": 1.5}, "connections must be"),
        ({"connections": "2"}, "connections must be"),
        ({"rate": 0}, "rate must be"),
        ({"rate": -1}, "rate must be"),
        ({"rate": float("inf")}, "rate must be"),
        ({"rate": float("nan")}, "rate must be"),
        ({"rate": "fast"}, "rate must be"),
        ({"ignore": "yes"}, "ignore must be"),
        ({"conections": 2}, "unknown key 'conections'; did you mean 'connections'?"),
        ({"headers": ["a"]}, "headers must be"),
        ({"headers": {"a b": "x"}}, "'a b', which is no header"),
        ({"headers": {"": "x"}}, "which is no header"),
        ({"headers": {"X:": "x"}}, "which is no header"),
        ({"headers": {"Host": "x"}}, "may not hold Host"),
        ({"headers": {"CONTENT-LENGTH": "1"}}, "may not hold CONTENT-LENGTH"),
        ({"headers": {"Connection": "close"}}, "may not hold"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "may not hold"),
        ({"headers": {"X": "a\r\nY: b"}}, "X holds a line break"),
        ({"headers": {"X": "a\0b"}}, "X holds a line break"),
        ({"headers": {"X": "a\x7fb"}}, "X holds a line break"),
        ({"headers": {"X": "\u00e9"}}, "X holds a line break"),
        ({"headers": {"X": " "}}, "X is empty"),
        ({"headers": {"X": "${EVIL}"}}, "X holds a line break"),
        ({"headers": {"X": ["a"]}}, "X must be text"),
        ({"headers": {"X": "a", "x": "b"}}, "holds x twice"),
        ({"headers": {"X": "${NOT_THERE}"}}, "NOT_THERE, which is not set"),
        ({"headers": {"X": "${}"}}, "not the beginning"),
        ({"proxy": "http://${NOT_THERE}:1"}, "NOT_THERE"),
        ({"proxy": "ftp://10.0.0.1"}, "proxy must be"),
        ({"proxy": "10.0.0.1:3128"}, "proxy must be"),
        ({"proxy": "http://"}, "proxy must be"),
        ({"proxy": "http://a:99999"}, "proxy must be"),
        ({"proxy": "http://a/x?y"}, "proxy must be"),
        ({"proxy": "http://a\r\nb"}, "proxy must be"),
        ({"proxy": "http://[x"}, "proxy must be"),
        ({"proxy": ""}, "proxy must be"),
        ({"proxy": 5}, "proxy must be"),
        (None, "must have a rule"),
        (5, "must have a rule"),
    ],
)
def test_bad_rules_name_file_host_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: object, words: str
) -> None:
    monkeypatch.setenv("EVIL", "secret\nSet-Cookie: x")
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, json.dumps({"a.example": rule}), name="t.json")
    message = str(caught.value)
    assert words in message
    assert str(tmp_path / "t.json") in message
    assert "'a.example'" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b", "must be a mapping"),
        ("a.example: {rate: 1}\nA.EXAMPLE: {rate: 2}", "'A.EXAMPLE' stands there twice"),
        ("a.example: {rate: 1}\na.example: {rate: 2}", "stands there twice"),
        ("a.example: {rate: 1, rate: 2}", "rate stands there twice"),
        ("1.5: {rate: 1}", "1.5 is not a host"),
        ("no: {rate: 1}", "False is not a host"),
        ("a.example: {headers: {X: 's3cret}", "line 1"),
        ("a.example: !!python/object:os.system {}", "line 1"),
        ("a.example: [", "line "),
        ("\x00", "is no YAML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"host_table=.*table\.yaml") as caught:
        load(tmp_path, text)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("option", ["host_table", "ignore_hosts"])
def test_files_that_cannot_be_read(tmp_path: Path, option: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.json").write_text("{")
    for path in ("nowhere", "binary", "", "nosuch://x/y", *(["broken.json"] if option == "host_table" else [])):
        name = path if "://" in path else str(tmp_path / path)
        with pytest.raises(ConfigError, match=f"{option}="):
            load_host_table(FetchConfig(**{option: name}))


def test_yaml_merge_keys_and_anchors_work(tmp_path: Path) -> None:
    text = "a.example: &slow {rate: 1}\nb.example: *slow\nc.example: {<<: *slow, connections: 3}\n"
    table = load(tmp_path, text)
    assert table.rule("b.example") == HostRule(rate=1)
    assert table.rule("c.example") == HostRule(rate=1, connections=3)


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("${WHOLE}", "socks5h://u:p@h.example:1080"),
        ("http://${HOST}:3128/", "http://10.0.0.9:3128/"),
        ("https://[::1]:3128", "https://[::1]:3128"),
        (" socks5://h.example ", "socks5://h.example"),
    ],
)
def test_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, proxy: str) -> None:
    monkeypatch.setenv("WHOLE", "socks5h://u:p@h.example:1080")
    monkeypatch.setenv("HOST", "10.0.0.9")
    table = load(tmp_path, json.dumps({"a.example": {"proxy": value}}), name="t.json")
    assert table.rule("a.example").proxy == proxy


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a.example\n*.b.example\n", {"a.example", "*.b.example"}),
        ("\ufeff# note\r\n\r\n  A.example  \r\n", {"a.example"}),
        ('server_name,batches\na.example,5\n\n"b.example",7 # note\n', {"a.example", "b.example"}),
        ("Host\na.example\n", {"a.example"}),
        ("server;x\n", None),
        ("", set()),
        ("::1\n", {"::1"}),
    ],
)  # fmt: skip
def test_ignore_lists(tmp_path: Path, text: str, hosts: set[str] | None) -> None:
    if hosts is None:
        with pytest.raises(ConfigError, match="line 1"):
            load(tmp_path, "", text)
    else:
        assert load(tmp_path, "", text).ignored == hosts


@pytest.mark.parametrize("line", ["https://a.example/", "a.example,5", "*", "a b", "*."])
def test_bad_lines_of_an_ignore_list(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"ignore_hosts=.*ignore\.txt', line 2: ") as caught:
        load(tmp_path, "", f"b.example\n{line}\n")
    assert repr(line) in str(caught.value)
