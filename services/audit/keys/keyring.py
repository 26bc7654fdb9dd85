"""The wrapped keys of one log: the content of `keyring/<log_id>`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from services.audit.keys.wrap import VERSION_BYTES, WRAP_BYTES, KeysetError

KEYRING_VERSION = 1


@dataclass(frozen=True, slots=True)
class WrappedKek:
    """One version of the tenant KEK."""

    root_version: int
    wrapped: bytes | None
    """Wrapped under the root KEK of that version. None when destroyed: all it wraps is unreadable then."""


@dataclass(frozen=True, slots=True)
class WrappedDek:
    """One data key."""

    kek_version: int
    wrapped: bytes
    """Wrapped under the tenant KEK of that version."""

    def encode(self) -> bytes:
        """The 64 bytes that a DEK_OPEN frame carries."""
        return self.kek_version.to_bytes(VERSION_BYTES, "big") + self.wrapped

    @classmethod
    def decode(cls, data: bytes) -> WrappedDek:
        """Parse 64 bytes.

        Raises:
            KeysetError: another length.
        """
        if len(data) != VERSION_BYTES + WRAP_BYTES:
            raise KeysetError("a DEK_OPEN frame does not carry a wrapped key")
        return cls(int.from_bytes(data[:VERSION_BYTES], "big"), data[VERSION_BYTES:])


@dataclass(slots=True)
class Keyring:
    """The file's content."""

    tenant_uid: str
    log_id: bytes
    keks: dict[int, WrappedKek]
    """By version; the newest wraps new DEKs."""
    deks: dict[bytes, WrappedDek] = field(default_factory=dict)
    """By dek_id."""

    def encode(self) -> bytes:
        """The file's bytes."""
        document = {
            "version": KEYRING_VERSION,
            "tenant_uid": self.tenant_uid,
            "log_id": self.log_id.hex(),
            "keks": [
                {
                    "version": version,
                    "root_version": kek.root_version,
                    "wrapped": kek.wrapped.hex() if kek.wrapped is not None else None,
                }
                for version, kek in sorted(self.keks.items())
            ],
            "deks": {
                dek_id.hex(): {"kek_version": dek.kek_version, "wrapped": dek.wrapped.hex()}
                # A copy, because a commit may make a new DEK while a fold writes the file.
                for dek_id, dek in list(self.deks.items())
            },
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Keyring:
        """Parse a file's bytes.

        Raises:
            KeysetError: not a keyring, or of a version this service does not know.
        """
        try:
            document = json.loads(data)
            version = document["version"]
            if type(version) is not int or version != KEYRING_VERSION:
                raise KeysetError(f"a keyring of version {version!r} is not known to this service")
            _require_names(document, {"version", "tenant_uid", "log_id", "keks", "deks"})
            keks = {item["version"]: _kek(item) for item in document["keks"]}
            deks = {bytes.fromhex(dek_id): _dek(item) for dek_id, item in document["deks"].items()}
            ring = cls(str(document["tenant_uid"]), bytes.fromhex(document["log_id"]), keks, deks)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise KeysetError("a keyring file is damaged") from None
        if not keks or len(keks) != len(document["keks"]):
            raise KeysetError("a keyring file is damaged")
        unknown = {dek.kek_version for dek in deks.values()} - set(keks)
        if unknown:
            raise KeysetError(f"a keyring names tenant keys it does not hold: {sorted(unknown)}")
        return ring


def _kek(item: dict[str, Any]) -> WrappedKek:
    _require_names(item, {"version", "root_version", "wrapped"})
    _require_version(item["version"])
    wrapped = item["wrapped"]
    return WrappedKek(
        _require_version(item["root_version"]), bytes.fromhex(wrapped) if wrapped is not None else None
    )


def _dek(item: dict[str, Any]) -> WrappedDek:
    _require_names(item, {"kek_version", "wrapped"})
    return WrappedDek(_require_version(item["kek_version"]), bytes.fromhex(item["wrapped"]))


def _require_names(document: dict[str, Any], names: set[str]) -> None:
    if set(document) != names:
        raise ValueError("other names than a keyring has")


def _require_version(value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 32:
        raise ValueError("a version is a number from 1")
    return value
