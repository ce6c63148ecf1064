"""Rules by host: how fast to ask, through which proxy, with which headers, or not at all.

The driver reads the files once; the workers get the table. Secrets stay out of the file (`${NAME}` stands for a
variable of the driver's environment), out of `repr` and out of every message.
"""

from __future__ import annotations

import csv
import ipaddress
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import yaml

from img2dataset_dist import urls
from img2dataset_dist.config import FetchConfig, nearest
from img2dataset_dist.errors import BadUrl, ConfigError
from img2dataset_dist.storage import open_input

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
HOST_COLUMNS = ("servername", "host", "server", "server_name")
"""What the first column of an ignore list in csv may be called."""

REFUSED_HEADERS = frozenset({
    "host", "content-length", "connection", "transfer-encoding", "keep-alive", "proxy-connection", "te", "upgrade",
    "proxy-authorization", "range",
})  # fmt: skip
"""Headers that are about the message or this hop (RFC 9110, 7.6.1), that would go to the host and not to the proxy,
or that would have a part of the body stored as if it were the whole."""

_CACHED = 65536
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NO_HOST = re.compile(r"[\s/?#@\\]")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """What holds for a host. None and () mean: nothing of its own.

    Attributes:
        connections: requests under way at once.
        rate: requests that start per second.
        ignore: do not ask it.
        headers: name and value, sent with each request to it.
        proxy: URL, may hold a password.
    """

    connections: int | None = None
    rate: float | None = None
    ignore: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    proxy: str | None = None

    def __repr__(self) -> str:
        """Without what may be secret: values of headers, user and password of the proxy."""
        proxy = None if self.proxy is None else f"{self.proxy.partition('://')[0]}://***{self.proxy.rpartition('@')[2]}"
        if self.proxy is not None and "@" not in self.proxy:
            proxy = self.proxy
        return (
            f"HostRule(connections={self.connections}, rate={self.rate}, ignore={self.ignore}, "
            f"headers={[name for name, _ in self.headers]}, proxy={proxy!r})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTable:
    """All rules. Picklable: made by the driver, used by the workers.

    Attributes:
        rules: by `host`, `*.domain` (the domain itself and all below it) or `*`.
        ignored: hosts that must not be asked, as `host` or `*.domain`.
    """

    rules: Mapping[str, HostRule]
    ignored: frozenset[str]
    _known: dict[str, HostRule] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rule(self, host: str) -> HostRule:
        """What holds for `host`: the rule for it, above that for the longest `*.domain`, ..., above that for `*`.

        They are merged field by field, headers by their name. Who is ignored by one of them is ignored.
        """
        found = self._known.get(host)
        if found is None:
            found = self._merged(host)
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[host] = found
        return found

    def _merged(self, host: str) -> HostRule:
        keys = _keys(_canonical(host))
        merged = HostRule(ignore=any(key in self.ignored for key in keys))
        for rule in (self.rules[key] for key in keys if key in self.rules):
            names = {name.lower() for name, _ in rule.headers}
            merged = HostRule(
                connections=merged.connections if rule.connections is None else rule.connections,
                rate=merged.rate if rule.rate is None else rule.rate,
                ignore=merged.ignore or rule.ignore,
                headers=(*(pair for pair in merged.headers if pair[0].lower() not in names), *rule.headers),
                proxy=merged.proxy if rule.proxy is None else rule.proxy,
            )
        return merged


def load_host_table(config: FetchConfig) -> HostTable:
    """The table that `host_table` and `ignore_hosts` name; an empty one when they name nothing.

    Raises:
        ConfigError: a file cannot be read or says something that we do not understand. The message names the file,
            the host and the key, and no value that may be secret.
    """
    rules = {} if config.host_table is None else _read_rules(config.host_table)
    ignored = frozenset() if config.ignore_hosts is None else frozenset(_read_ignored(config.ignore_hosts))
    return HostTable(rules=rules, ignored=ignored)


def _keys(host: str) -> list[str]:
    """All keys that cover a host, the most general first."""
    if ":" in host:
        return ["*", host]
    labels = host.split(".")
    return ["*", *("*." + ".".join(labels[start:]) for start in reversed(range(len(labels)))), host]


def _canonical(host: str) -> str:
    """One spelling for all that name the same host: lower case, no final dot, IPv6 in its short form."""
    host = host.lower().removesuffix(".")
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host


def _host_key(text: object) -> str:
    """A host or pattern of a file, as a key of the table.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(text, str):
        raise ValueError("is not a host; put it in quotes if it is one")  # noqa: TRY004 (caught as one kind)
    text = text.strip()
    if text == "*":
        return text
    prefix, bare = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if bare.count(":") > 1 and not bare.startswith("["):
        bare = f"[{bare}]"
    if not bare or _NO_HOST.search(bare) or "*" in bare or (":" in bare and not bare.endswith("]")):
        raise ValueError("is not a host: write it as in a URL, without scheme, port and path, or as *.domain")
    try:
        return prefix + _canonical(urls.parse(f"http://{bare}/").host)
    except BadUrl:
        raise ValueError("is not a host name or address") from None


def _read(path: str, option: str, parse: Callable[[str], T]) -> T:
    """What `parse` makes of a file; every problem becomes one line that names the file."""
    try:
        with open_input(path) as file:
            text = file.read().decode("utf-8-sig")
        return parse(text)
    except ConfigError:
        raise
    except yaml.YAMLError as error:  # its own text quotes the file, which may hold a secret
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{option}={path!r}{where}: {getattr(error, 'problem', None) or 'is no YAML'}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{option}={path!r}, line {error.lineno}: is no JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option}={path!r} is not UTF-8 text") from None
    except (OSError, ValueError, ImportError, RecursionError) as error:
        raise ConfigError(f"{option}={path!r} cannot be read: {error}") from None


def _read_rules(path: str) -> dict[str, HostRule]:
    content = _read(path, "host_table", _parse_json if path.lower().endswith(".json") else _parse_yaml)
    if content is None:
        return {}
    if not isinstance(content, _Pairs):
        raise ConfigError(f"host_table={path!r} must be a mapping of hosts to rules, for example api.org: {{rate: 1}}")
    rules: dict[str, HostRule] = {}
    for name, rule in content:
        where = f"host_table={path!r}, {name!r}"
        try:
            key = _host_key(name)
        except ValueError as error:
            raise ConfigError(f"{where} {error}") from None
        if key in rules:
            raise ConfigError(f"{where} stands there twice")
        rules[key] = _rule_of(rule, where)
    return rules


class _Pairs(list[tuple[Any, Any]]):
    """A mapping of a file as it stands there: a host written twice must not lose its first rule without a word."""


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_Pairs)


class _Loader(yaml.SafeLoader):
    """YAML of which mappings come as `_Pairs`."""


def _construct_pairs(loader: _Loader, node: yaml.MappingNode) -> _Pairs:
    loader.flatten_mapping(node)
    return _Pairs(
        (loader.construct_object(key, deep=True), loader.construct_object(value, deep=True))
        for key, value in node.value
    )


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_pairs)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def _rule_of(content: Any, where: str) -> HostRule:
    """One rule, checked."""
    if not isinstance(content, _Pairs):
        raise ConfigError(f"{where} must have a rule like {{rate: 0.5, connections: 2}}")
    checks = {"connections": _connections, "rate": _rate, "ignore": _ignore, "headers": _headers, "proxy": _proxy}
    fields: dict[str, Any] = {}
    for key, value in content:
        if key not in checks:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), list(checks))}")
        if key in fields:
            raise ConfigError(f"{where}: {key} stands there twice")
        try:
            fields[key] = checks[key](value)
        except ValueError as error:
            raise ConfigError(f"{where}: {key} {error}") from None
    return HostRule(**fields)


def _connections(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a whole number of at least 1")
    return value


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError("must be a number of requests per second above 0")
    return float(value)


def _ignore(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 (caught as one kind)
    return value


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, _Pairs):
        raise ValueError("must be a mapping of names to values")  # noqa: TRY004 (caught as one kind)
    found: dict[str, tuple[str, str]] = {}
    for name, template in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"has the name {name!r}, which is no header")
        if name.lower() in REFUSED_HEADERS:
            raise ValueError(f"may not hold {name}: it is not for the user to set")
        if name.lower() in found:
            raise ValueError(f"holds {name} twice")
        if isinstance(template, bool) or not isinstance(template, (str, int, float)):
            raise ValueError(f"{name} must be text")  # noqa: TRY004 (caught as one kind)
        text = _expand(str(template)).strip(" \t")
        if not text:
            raise ValueError(f"{name} is empty")
        if not text.isascii() or not text.replace("\t", " ").isprintable():
            raise ValueError(f"{name} holds a line break, a control character or one that is not ASCII")
        found[name.lower()] = (name, text)
    return tuple(found.values())


def _proxy(value: Any) -> str | None:
    if value is None:
        return None
    problem = f"must be a URL of a proxy with scheme {', '.join(PROXY_SCHEMES)}, for example http://10.0.0.1:3128"
    if not isinstance(value, str):
        raise ValueError(problem)  # noqa: TRY004 (caught as one kind)
    # A user or a password from the environment may hold any character, also those that end it.
    user, at, rest = value.strip().rpartition("@")
    text = _expand(user, escape=lambda secret: quote(secret, safe="")) + at + _expand(rest)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(problem) from None
    plain = text.isascii() and text.isprintable() and " " not in text
    if not plain or parts.scheme not in PROXY_SCHEMES or not parts.hostname or port == 0:
        raise ValueError(problem)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(problem)
    return text


def _expand(text: str, escape: Callable[[str], str] = str) -> str:
    """`${NAME}` replaced by the environment's value.

    Raises:
        ValueError: there is no such variable.
    """
    if "${" in _VARIABLE.sub("", text):
        raise ValueError("holds '${' that is not the beginning of ${NAME}")

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ValueError(f"needs the environment variable {match[1]}, which is not set")
        return escape(found)

    return _VARIABLE.sub(value, text)


def _read_ignored(path: str) -> set[str]:
    found = set()
    for number, name in _read(path, "ignore_hosts", lambda text: list(_hosts_of(text))):
        where = f"ignore_hosts={path!r}, line {number}: {name[:100]!r}"
        if name == "*":
            raise ConfigError(f"{where} would ignore every host")
        try:
            found.add(_host_key(name))
        except ValueError as error:
            raise ConfigError(f"{where} {error}") from None
    return found


def _hosts_of(text: str) -> Iterator[tuple[int, str]]:
    """Line number and host of each line: the first column where the first line is the header of a csv file."""
    table: bool | None = None
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.partition("#")[0].strip()
        if not bare:
            continue
        cell = next(csv.reader([bare]))[0].strip()
        if table is None:
            table = cell.lower() in HOST_COLUMNS
            if table:
                continue
        name = cell if table else bare
        if name:
            yield number, name
