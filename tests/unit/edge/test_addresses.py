"""Addresses as people write them."""

from __future__ import annotations

import pytest

from services.edge.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address", "is_host_name"),
    [
        ("unix:/run/a.sock", Address(path="/run/a.sock"), False),
        ("10.0.0.7:9443", Address(host="10.0.0.7", port=9443), False),
        ("[2001:db8::7]:9443", Address(host="2001:db8::7", port=9443), False),
        ("router-1.mesh.internal:1", Address(host="router-1.mesh.internal", port=1), True),
        ("router_1:65535", Address(host="router_1", port=65535), True),
    ],
)
def test_an_address_is_read(text, address, is_host_name):
    assert parse_address(text) == address
    assert parse_address(text).is_host_name is is_host_name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:-1",
        "a:\u0661",
        "a b:1",
        "-a:1",
        "a..b:1",
        "https://a:1",
        "a/b:1",
        "::1:1",
        "[a]:1",
        "[::g]:1",
        "1.2.3:1",
        f"{'a' * 64}:1",
        f"{'a.' * 127}aa:1",
        "unix:a",
        "unix:",
        "unix:/a\0b",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)
