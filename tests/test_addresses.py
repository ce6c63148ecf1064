"""What may be connected to: an address is of the open Internet, and so is every address that it carries."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from img2dataset_dist.fetchers.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.20.0.0",
        "223.255.255.255",
        "2606:2800:220:1::1",
        "2606:2800:220:1:248:1893:25c8:1946",
        "2a00:1450:4001:830::200e",
        "2001:4860:4860::8888",
        "2001:200::1",
        "::ffff:93.184.216.34",
        "::ffff:5db8:d822",
        "64:ff9b::93.184.216.34",
        "2002:5db8:d822::1",
    ],
)
def test_public(address: str) -> None:
    assert is_public(address)
    assert is_public(address.upper())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",  # metadata of a cloud
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",  # metadata of most clouds
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "0:0:0:0:0:0:0:1",
        "::1%lo",
        "100::1",
        "2001:db8::1",
        "2001:2::1",
        "2001:20::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",  # metadata of a cloud
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "::10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "64:ff9b:1::5db8:d822",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:101:1::1",
        "2001:0:5db8:d822::f5ff:fffe",  # Teredo, of a client at 10.0.0.1
        "2001::1",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)
    assert not is_public(address.upper())


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "localhost", "example.com", "1.1.1", "1.1.1.1.1", "1.1.1.256", "01.1.1.1", "0x1.1.1.1", "16843009",
        "1.1.1.1:80", "1.1.1.1/32", " 1.1.1.1", "1.1.1.1\n", "[2606:2800:220:1::1]", "2606:2800:220:1::1::", ":", "%",
        "%eth0", "\u0661.1.1.1", "-1.1.1.1", "1.1.1.1\0",
    ],
)  # fmt: skip
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


def carriers(address: IPv4Address) -> list[IPv6Address]:
    """IPv6 addresses behind which an IPv4 address may be."""
    number = int(address)
    return [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(number),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x2002 << 112 | number << 80),
        IPv6Address(0x2002 << 112 | number << 80 | 1),
        IPv6Address(0x20010000 << 96 | number << 64),
        IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF),
    ]


def test_carriers() -> None:
    forms = [str(IPv6Address(str(form))) for form in carriers(IPv4Address("10.1.2.3"))]
    assert forms[2:5] == ["64:ff9b::a01:203", "2002:a01:203::", "2002:a01:203::1"]
    assert IPv6Address(forms[0]).ipv4_mapped == IPv4Address("10.1.2.3")


@given(st.ip_addresses(v=4))
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("169.254.169.254"))
@example(IPv4Address("0.0.0.1"))
def test_what_is_closed_is_closed_inside_ipv6(address: IPv4Address) -> None:
    if not is_public(str(address)):
        for form in carriers(address):
            assert not is_public(str(form))
            assert not is_public(form.exploded)


@given(st.ip_addresses(v=4))
def test_an_open_address_stays_open_where_a_gateway_may_be(address: IPv4Address) -> None:
    mapped, _, nat64, six_to_four = carriers(address)[:4]
    assert {is_public(str(form)) for form in (mapped, nat64, six_to_four)} == {is_public(str(address))}


@given(st.text(max_size=40))
def test_any_text_has_an_answer(text: str) -> None:
    assert is_public(text) in (True, False)
