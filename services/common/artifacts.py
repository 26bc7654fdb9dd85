"""A store of large immutable bytes by their SHA-256: tokenisers, chat templates, sealed adapters."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol

from services.common.durable_files import replace_file

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactError(Exception):
    """An artifact is missing, or its bytes do not have the SHA-256 of its name."""


class ArtifactStore(Protocol):
    """Content-addressed bytes. Blocking: call it off the event loop."""

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their SHA-256 in lowercase hex."""
        ...

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a digest, verified.

        Raises:
            ArtifactError: missing or damaged.
        """
        ...


class DirectoryArtifactStore:
    """Artifacts as files `<root>/<first two>/<digest>`; several processes may share the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise ArtifactError("not a SHA-256 in lowercase hex")
        return self._root / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their SHA-256 in lowercase hex."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        if path.exists():
            return sha256
        replace_file(path, data)
        return sha256

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a digest, verified; raises as `ArtifactStore.read`."""
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise ArtifactError(f"artifact {sha256} is missing") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactError(f"artifact {sha256} is damaged")
        return data
