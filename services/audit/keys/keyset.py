"""The key hierarchy: root KEK → tenant KEK → data keys (DEKs), one keyring file a log.

Tenant KEKs are random, not derived: destroying one makes the content of its tenant unreadable for good. The tree does
not commit to a keyring, so that keys can be rewrapped without touching a leaf.
"""

from __future__ import annotations

import os
from pathlib import Path

from services.audit.keys.envelope import KEY_BYTES, DataKey, RandomBytes
from services.audit.keys.keyring import Keyring, WrappedDek, WrappedKek
from services.audit.keys.root import KeyProvider
from services.audit.keys.wrap import KeysetError, dek_place, kek_place, unwrap, wrap
from services.audit.proofs.entry import ID_BYTES
from services.common.durable_files import replace_file


class KeyDestroyedError(KeysetError):
    """The tenant KEK over a data key was destroyed on purpose. Its content can never be read again."""


class Keyset:
    """The keys of one log. Opens old DEKs and makes new ones."""

    def __init__(
        self, path: Path, keyring: Keyring, provider: KeyProvider, random_bytes: RandomBytes = os.urandom
    ) -> None:
        self._path = path
        self._keyring = keyring
        self._provider = provider
        self._random_bytes = random_bytes
        self._keks: dict[int, bytes] = {}
        """Tenant KEKs unwrapped so far, by version."""
        self._newest = max(keyring.keks)
        self._unsaved = False
        if keyring.keks[self._newest].wrapped is not None:
            self._kek(self._newest)

    @classmethod
    def create(
        cls,
        path: Path,
        tenant_uid: str,
        log_id: bytes,
        provider: KeyProvider,
        random_bytes: RandomBytes = os.urandom,
    ) -> Keyset:
        """Make a log's keyring with a fresh tenant KEK, durably."""
        place = kek_place(tenant_uid, log_id, provider.root_version, 1)
        wrapped = provider.wrap(random_bytes(KEY_BYTES), place)
        keyring = Keyring(tenant_uid, log_id, {1: WrappedKek(provider.root_version, wrapped)})
        replace_file(path, keyring.encode())
        return cls(path, keyring, provider, random_bytes)

    @classmethod
    def load(cls, path: Path, provider: KeyProvider, random_bytes: RandomBytes = os.urandom) -> Keyset:
        """Read a log's keyring.

        Raises:
            KeysetError: missing, damaged, of an unknown version, or wrapped under another root.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise KeysetError("a keyring file is missing") from None
        return cls(path, Keyring.decode(data), provider, random_bytes)

    def new_dek(self) -> DataKey:
        """Make a DEK. Its wrap becomes durable with the DEK_OPEN frame that carries it; `save` adds it to the file.

        Raises:
            KeyDestroyedError: the newest tenant KEK was destroyed.
        """
        dek_id, dek = self._random_bytes(ID_BYTES), self._random_bytes(KEY_BYTES)
        ring = self._keyring
        place = dek_place(ring.tenant_uid, ring.log_id, self._newest, dek_id)
        wrapped = wrap(dek, self._kek(self._newest), place, self._random_bytes)
        ring.deks[dek_id] = WrappedDek(self._newest, wrapped)
        self._unsaved = True
        return DataKey(dek, ring.log_id, dek_id)

    def framed(self, dek_id: bytes) -> bytes:
        """The wrap of a DEK as its DEK_OPEN frame carries it."""
        return self._keyring.deks[dek_id].encode()

    def adopt(self, dek_id: bytes, framed: bytes) -> None:
        """Take the wrap of a DEK_OPEN frame, unless the file has one for this DEK.

        Raises:
            KeysetError: the frame carries no wrap.
        """
        if dek_id not in self._keyring.deks:
            self._keyring.deks[dek_id] = WrappedDek.decode(framed)
            self._unsaved = True

    def save(self) -> bool:
        """Add new wraps to the file, durably. Call it before the frames that carried them are removed.

        Returns:
            Whether there was anything to write.
        """
        if not self._unsaved:
            return False
        self._unsaved = False
        replace_file(self._path, self._keyring.encode())
        return True

    def dek(self, dek_id: bytes, framed: bytes = b"") -> DataKey:
        """Open a DEK of this log.

        Args:
            dek_id: the DEK.
            framed: its wrap from its DEK_OPEN frame, for a keyring that was restored from an older copy.

        Raises:
            KeyDestroyedError: the tenant KEK over it was destroyed.
            KeysetError: the log has no such DEK, or its wrap does not open.
        """
        ring = self._keyring
        wrapped = ring.deks.get(dek_id)
        if wrapped is None and framed:
            wrapped = WrappedDek.decode(framed)
        if wrapped is None:
            raise KeysetError("the log has no such data key")
        place = dek_place(ring.tenant_uid, ring.log_id, wrapped.kek_version, dek_id)
        dek = unwrap(wrapped.wrapped, self._kek(wrapped.kek_version), place)
        return DataKey(dek, ring.log_id, dek_id)

    def _kek(self, version: int) -> bytes:
        ring = self._keyring
        if version not in self._keks:
            kek = ring.keks.get(version)
            if kek is None:
                raise KeysetError(f"the log has no tenant key of version {version}")
            if kek.wrapped is None:
                raise KeyDestroyedError("the tenant's key was destroyed")
            place = kek_place(ring.tenant_uid, ring.log_id, kek.root_version, version)
            self._keks[version] = self._provider.unwrap(kek.wrapped, kek.root_version, place)
        return self._keks[version]
