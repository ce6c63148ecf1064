"""Which addresses a list may make us connect to: public ones only, unless the user says otherwise.

A list is hostile input. A URL, a redirect or a name that resolves differently the second time must not reach the
machine itself, its neighbours, or a cloud's metadata service; so the address is judged at the moment a socket is
opened to it. Source: the IANA special-purpose address registries (RFC 6890) and the ways IPv6 can carry an IPv4
address (RFC 4291, 6052, 3056, 4380).
"""

from __future__ import annotations

import functools
import ipaddress
from ipaddress import IPv4Address, IPv6Address

_CLOSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/128", "::1/128", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
        "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""Not the open Internet; written out, because what Python calls global differs between its versions. 168.63.129.16
looks like it but is the host of Azure's virtual machines; `::ffff:0:0:0/96` is for translators to IPv4 (RFC 2765)."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


@functools.lru_cache(maxsize=65536)
def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one of the open Internet. What is no address at all is not."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_open(one) for one in (parsed, *_carried(parsed)))


def _is_open(address: IPv4Address | IPv6Address) -> bool:
    return not any(address in network for network in _CLOSED if network.version == address.version)


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """IPv4 addresses inside an IPv6 one: mapped, compatible, NAT64, 6to4, Teredo."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _COMPATIBLE:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]
