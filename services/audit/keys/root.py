"""The root KEKs, which wrap the KEKs of tenants: from a file here, from a key service in production."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from services.audit.keys.envelope import KEY_BYTES, RandomBytes
from services.audit.keys.wrap import VERSION_BYTES, KeysetError, unwrap, wrap
from services.common.durable_files import make_directory, read_or_create

_RECORD_BYTES = VERSION_BYTES + KEY_BYTES


class KeyProvider(Protocol):
    """Holds the root KEKs."""

    @property
    def root_version(self) -> int:
        """The version of the root KEK that new wraps are made under."""
        ...

    def wrap(self, key: bytes, associated_data: bytes) -> bytes:
        """Encrypt a tenant KEK under the root KEK of `root_version`."""
        ...

    def unwrap(self, wrapped: bytes, root_version: int, associated_data: bytes) -> bytes:
        """Decrypt a tenant KEK.

        Raises:
            KeysetError: no such root, another place, or damage.
        """
        ...


class FileKeyProvider:
    """Root KEKs in a file of mode 0400, made at the first start: (version u32 ‖ key)*, the newest last."""

    def __init__(self, path: Path, random_bytes: RandomBytes = os.urandom) -> None:
        make_directory(path.parent)
        self._roots = _parse(read_or_create(path, lambda: _record(1, random_bytes(KEY_BYTES))))
        self._random_bytes = random_bytes

    @property
    def root_version(self) -> int:
        """The version of the newest root KEK."""
        return max(self._roots)

    def wrap(self, key: bytes, associated_data: bytes) -> bytes:
        """Encrypt a tenant KEK under the newest root KEK."""
        return wrap(key, self._roots[self.root_version], associated_data, self._random_bytes)

    def unwrap(self, wrapped: bytes, root_version: int, associated_data: bytes) -> bytes:
        """Decrypt a tenant KEK.

        Raises:
            KeysetError: no such root, another place, or damage.
        """
        root = self._roots.get(root_version)
        if root is None:
            raise KeysetError(f"there is no root key of version {root_version}")
        return unwrap(wrapped, root, associated_data)


def _record(version: int, key: bytes) -> bytes:
    return version.to_bytes(VERSION_BYTES, "big") + key


def _parse(data: bytes) -> dict[int, bytes]:
    if not data or len(data) % _RECORD_BYTES:
        raise KeysetError(f"the root key file has {len(data)} bytes, not a multiple of {_RECORD_BYTES}")
    roots: dict[int, bytes] = {}
    for start in range(0, len(data), _RECORD_BYTES):
        version = int.from_bytes(data[start : start + VERSION_BYTES], "big")
        if version <= max(roots, default=0):
            raise KeysetError("the root key file's versions do not count up from 1")
        roots[version] = data[start + VERSION_BYTES : start + _RECORD_BYTES]
    return roots
