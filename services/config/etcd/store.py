"""The store that the config service needs: consistent reads, and writes that happen whole or not at all.

`etcd.client.EtcdClient` implements it; tests/contract/test_config_store.py checks any other implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import InternalError, Reason, UnavailableError

MAX_TXN_OPERATIONS = 128
NOTHING_WRITTEN = (OSError, InternalError, ValueError)
"""Errors of `ConfigStore.write` after which nothing was written."""


class StoreUnavailableError(UnavailableError):
    """The store did not answer; whether a write took effect is not known."""

    default_reason = Reason.STORE_UNAVAILABLE


class CompactedError(Exception):
    """The revision asked for is gone: list again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A value and the revision that last changed it."""

    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Expect:
    """A condition of a write: this key was last changed by this revision; 0 for a key that does not exist."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A condition of a write: no key with this prefix was put after this revision. It does not see deletions."""

    prefix: str
    revision: int


class ConfigStore(Protocol):
    """Keys and values under one counter of revisions."""

    async def get(self, key: str) -> Stored | None:
        """Read one key, linearizable; None when it does not exist.

        Raises:
            StoreUnavailableError: no answer in time.
        """
        ...

    async def list(self, prefix: str) -> tuple[dict[str, Stored], int]:
        """List every key with a prefix as of one revision; returns that revision too.

        Raises:
            StoreUnavailableError: no answer in time.
            CompactedError: the revision was compacted while paging.
        """
        ...

    async def write(
        self, conditions: Sequence[Expect | Unchanged], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        """Put and delete keys as one revision, if every condition holds.

        Returns:
            The revision written, or None when a condition did not hold and nothing was written.

        Raises:
            StoreUnavailableError: no answer in time; the write may have taken effect.
            ValueError: more than `MAX_TXN_OPERATIONS` operations; nothing was written.
            InternalError: the store refuses the request itself; nothing was written.
            OSError: what has to be on this host's disk first is not; nothing was written.
        """
        ...
