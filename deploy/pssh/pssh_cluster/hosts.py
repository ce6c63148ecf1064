"""Lists of hosts: files of addresses (IPS) and csv files (HOSTS)."""

from __future__ import annotations

import csv
import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pssh_cluster.errors import ClusterError

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\$?")
_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_MAX_PORT = 65535

_HOST_COLUMNS = ("host", "ip", "address")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host as ssh reaches it."""

    address: str
    user: str = ""
    port: int = 0
    name: str = ""

    @property
    def spec(self) -> str:
        """How it is written: user@host:port."""
        return (f"{self.user}@" if self.user else "") + self.address + (f":{self.port}" if self.port else "")

    @property
    def key(self) -> tuple[str, int]:
        """What tells two hosts apart, whoever logs in there."""
        return self.address.lower().rstrip("."), self.port or 22

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.address + (f":{self.port}" if self.port else "")


def parse_host(text: str, *, user: str = "", where: str = "MASTER") -> Host:
    """A host from `[user@]host[:port]`.

    Raises:
        ClusterError: It is not one; the message begins with `where`.
    """
    head, at, rest = text.strip().rpartition("@")
    if rest.count(":") > 1:
        raise ClusterError(
            f"{where}: {text}: an IPv6 address cannot be written here; give the host a name, in ~/.ssh/config or in "
            "/etc/hosts"
        )
    address, colon, port = rest.partition(":")
    if at and not _USER.fullmatch(head):
        raise ClusterError(f"{where}: {text}: {head!r} is not the name of a user; write user@host:port")
    if not _ADDRESS.fullmatch(address):
        raise ClusterError(f"{where}: {text}: {address!r} is not a host; write one host per line, as user@host:port")
    if colon and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= _MAX_PORT):
        raise ClusterError(f"{where}: {text}: {port!r} is not a port (1 to {_MAX_PORT})")
    return Host(address=address, user=head or user, port=int(port) if colon else 0)


def read_ips(path: str, user: str = "") -> tuple[Host, ...]:
    """The hosts of a file with one per line.

    Raises:
        ClusterError: The file cannot be read, or a line is not a host; it is named.
    """
    hosts = []
    for number, line in enumerate(_lines(path, "IPS"), 1):
        text = line.split("#", 1)[0].strip()
        if text:
            hosts.append((f"{path}:{number}", parse_host(text, user=user, where=f"{path}:{number}")))
    return _checked(path, hosts)


def read_csv(path: str, user: str = "") -> tuple[Host, ...]:
    """The hosts of a csv file with the columns host, user, hostname; others are not looked at, a password is refused.

    Raises:
        ClusterError: The file cannot be read, or a line is not a host; it is named.
    """
    reader = csv.DictReader(_lines(path, "HOSTS"), skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or [] if name}
    column = next((columns[name] for name in _HOST_COLUMNS if name in columns), None)
    if column is None:
        raise ClusterError(
            f"{path}:1: there is no column `host`; the first line must be ,host,user,password,hostname,comment"
        )
    hosts = []
    for row in reader:
        where = f"{path}:{reader.line_num}"
        values = {short: (row.get(name) or "").strip() for short, name in columns.items()}
        text = (row.get(column) or "").strip()
        if not text or text.startswith("#"):
            continue
        if values.get("password"):
            raise ClusterError(_no_password(where, values.get("user", "") or user, text))
        host = parse_host(text, user=values.get("user", "") or user, where=where)
        if values.get("user") and not _USER.fullmatch(values["user"]):
            raise ClusterError(f"{where}: {values['user']!r} is not the name of a user")
        name = values.get("hostname", "")
        if name and not _ADDRESS.fullmatch(name):
            raise ClusterError(f"{where}: {name!r} is not a name of a host")
        hosts.append((where, Host(address=host.address, user=host.user, port=host.port, name=name)))
    return _checked(path, hosts)


def _no_password(where: str, user: str, host: str) -> str:
    target = f"{user}@{host}" if user else host
    return (
        f"{where}: passwords are not used: whoever reads this file could log in. Make a key (ssh-keygen -t ed25519), "
        f"bring it to the host (ssh-copy-id {target}, which asks for the password once), empty the column, and give "
        "SSH_KEY=file if it is not ssh's default"
    )


def _lines(path: str, variable: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{variable}={path}: cannot be read ({error})") from None


def _checked(path: str, found: Iterable[tuple[str, Host]]) -> tuple[Host, ...]:
    seen: dict[tuple[str, int], str] = {}
    hosts = []
    for where, host in found:
        if host.key in seen:
            raise ClusterError(f"{where}: {host.label} is in the list twice (first at {seen[host.key]})")
        seen[host.key] = where
        hosts.append(host)
    if not hosts:
        raise ClusterError(f"{path}: there is no host in it; write one per line, as user@host:port")
    return tuple(hosts)


@lru_cache(maxsize=1024)
def is_ours(address: str) -> bool:
    """Whether an address, or a name, is one of this machine's."""
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    return any(_can_bind(family, sockaddr[0]) for family, _, _, _, sockaddr in found)


def _can_bind(family: int, address: str | int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def is_local(host: Host) -> bool:
    """Whether a host is this machine, as this user: then a shell will do, and ssh to oneself need not be set up."""
    same_user = not host.user or host.user == os.environ.get("USER", _user())
    return not host.port and same_user and is_ours(host.address)


def _user() -> str:
    import pwd  # noqa: PLC0415 (where there is none, USER is set)

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def distinct(hosts: Iterable[Host]) -> list[Host]:
    """Each machine once, as it was written first: two steps at the same time would be in each other's way there."""
    found: dict[tuple[str, int], Host] = {}
    for host in hosts:
        found.setdefault(host.key, host)
    return list(found.values())


def own_address(host: Host, peers: Iterable[Host]) -> str:
    """The IPv4 address of a host that is this machine, by which its peers reach it.

    A name of one's own often stands for 127.0.1.1, where nobody else comes. Then it is the address from which we would
    send to a peer.

    Raises:
        ClusterError: There is none.
    """
    advice = f"{host.label}: list this machine by its address"
    try:
        found = [str(one[4][0]) for one in socket.getaddrinfo(host.address, None, socket.AF_INET, socket.SOCK_DGRAM)]
    except OSError as error:
        raise ClusterError(f"{advice} (its name has no IPv4 address: {error})") from None
    outside = next((address for address in found if not is_loopback(address)), "")
    if outside:
        return outside
    alone = True
    for peer in peers:
        if not is_ours(peer.address):
            alone = False
            address = _address_towards(peer)
            if address and not is_loopback(address):
                return address
    if alone:
        return found[0]
    raise ClusterError(f"{advice} (its name stands for {found[0]}, where no other host reaches it)")


def is_loopback(address: str) -> bool:
    """Whether an IPv4 address is for this machine alone."""
    return address.startswith("127.")


def _address_towards(peer: Host) -> str:
    """From which address we would send to a host; nothing is sent. Empty when there is no way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer.address, peer.port or 22))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def own_first(hosts: Iterable[Host]) -> Iterator[Host]:
    """The hosts that are this machine."""
    return (host for host in hosts if is_ours(host.address) and not host.port)
