"""The example of an edge's spec, and 41 ways to get one wrong."""

from __future__ import annotations

import copy
import datetime as dt
from enum import Enum
from pathlib import Path
from typing import Any

import services.edge
from services.cli.documents import read_document

EXAMPLE: dict[str, Any] = read_document(Path(services.edge.__file__).with_name("example.yaml"))


class _Marker(Enum):
    REMOVED = "removed"


REMOVED = _Marker.REMOVED
SECRET = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
FAR = {"endpoints": ["10.0.0.7:9443"]}

# Where, what to put there, the field that is named, and what the message says.
BAD = [
    ("listeners", REMOVED, "listeners", "is missing"),
    ("listeners.tenant.port", 70_000, "listeners.tenant.port", "is 70000; it has to be at most 65535"),
    ("listeners.tenant.port", 0, "listeners.tenant.port", "is 0; it has to be at least 1"),
    ("listeners.tenant.port", "8443", "listeners.tenant.port", "takes a whole number, not a text"),
    ("listeners.tenant.port", True, "listeners.tenant.port", "takes a whole number, not True"),
    (
        "listeners.operations.port",
        8443,
        "listeners.operations.port",
        "8443 is also the tenant listener's port",
    ),
    ("listeners.tenant.address", "example.org", "listeners.tenant.address", "is not an IP address"),
    ("listeners.tenant.adress", "::", "listeners.tenant.adress", "did you mean `address`?"),
    ("listeners.tenant.certificate", {}, "listeners.tenant.certificate", "either `file` or `inline`"),
    (
        "listeners.tenant.certificate",
        {"file": "/a", "inline": SECRET},
        "listeners.tenant.certificate",
        "either `file` or `inline`",
    ),
    ("listeners.tenant.private_key.file", "edge.key", "listeners.tenant.private_key.file", "is not absolute"),
    ("listeners.tenant.private_key.file", SECRET, "listeners.tenant.private_key.file", "under `inline`"),
    ("listeners.tenant.private_key.file", "c2VjcmV0", "listeners.tenant.private_key.file", "is not absolute"),
    ("listeners.tenant.address", SECRET, "listeners.tenant.address", "under `inline`"),
    ("upstreams.router.endpoints", [SECRET], "upstreams.router.endpoints[0]", "under `inline`"),
    ("access_log", SECRET, "access_log", "under `inline`"),
    ("listeners.tenant.private_key", SECRET, "listeners.tenant.private_key", "takes the fields file, inline"),
    (
        "listeners.tenant.private_key",
        {"inline": "c2VjcmV0"},
        "listeners.tenant.private_key.inline",
        "not PEM",
    ),
    ("upstreams.router.endpoints", [], "upstreams.router.endpoints", "is empty"),
    ("upstreams.router.endpoints", "r:9443", "upstreams.router.endpoints", "takes a list, not a text"),
    ("upstreams.router.endpoints", ["r:9443", "r"], "upstreams.router.endpoints[1]", "neither host:port nor"),
    (
        "upstreams.router.endpoints",
        ["10.0.0.256:1"],
        "upstreams.router.endpoints[0]",
        "neither an IP address",
    ),
    ("upstreams.router.endpoints", ["::1:9443"], "upstreams.router.endpoints[0]", "in brackets"),
    ("upstreams.router.endpoints", ["unix:r.sock"], "upstreams.router.endpoints[0]", "not an absolute path"),
    ("upstreams.router.endpoints", ["unix:/" + "r" * 107], "upstreams.router.endpoints[0]", "107 bytes"),
    ("upstreams.router.endpoints", ["r:1", "r:1"], "upstreams.router.endpoints", "r:1 is there twice"),
    ("upstreams.router.endpoints", ["r:1", "unix:/r"], "upstreams.router.endpoints", "does not mix"),
    ("upstreams.config", FAR, "upstreams.config.tls", "10.0.0.7:9443 leaves this host"),
    ("upstreams.router.tls.server_names", REMOVED, "upstreams.router.tls.server_names", "is missing"),
    ("upstreams.router.tls.server_names", [""], "upstreams.router.tls.server_names[0]", "is empty"),
    ("jwks.config", {"inline": "{}"}, "jwks.config.inline", "is not a JWK set"),
    ("admin", "0.0.0.0:9901", "admin", "can be reached from other hosts"),
    ("admin", "127.0.0.1:8443", "admin", "8443 is also a listener's port"),
    ("access_log", "access.log", "access_log", "is not absolute"),
    ("access_log", dt.date(2026, 1, 1), "access_log", "is a date; put it in quotes"),
    ("limits.heap_bytes", 1000, "limits.heap_bytes", "is 1000; it has to be at least 1048576"),
    ("limits.handshake_seconds", float("nan"), "limits.handshake_seconds", "takes a number, not nan"),
    ("limits.handshake_seconds", 0, "limits.handshake_seconds", "is 0; it has to be above 0"),
    ("limits", {1: 2}, "limits", "has the key 1, which is not a text"),
    ("node_id", "", "node_id", "is empty"),
    ("node_id", "\ud800", "node_id", "half of a surrogate pair"),
]


def edited(place: str, value: object) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(EXAMPLE)
    *path, last = place.split(".")
    part = document
    for step in path:
        part = part[step]
    if value is REMOVED:
        del part[last]
    else:
        part[last] = value
    return document
