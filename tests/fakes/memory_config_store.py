"""The config store in memory; the contract suite holds it to what etcd does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import MAX_TXN_OPERATIONS, Expect, Stored, StoreUnavailableError, Unchanged


class MemoryConfigStore:
    def __init__(self) -> None:
        self.down = False
        self.ignored_prefixes: set[str] = set()
        """Conditions `Unchanged` of these prefixes hold always: as if the writer had not set them."""
        self.before_write: Callable[[], None] = lambda: None
        """Called between a writer's decision and its write: where another writer may come in."""
        self._items: dict[str, Stored] = {}
        self._revision = 1
        self._followers: list[tuple[str, Follower]] = []

    def follow(self, prefix: str, follower: Follower) -> None:
        """Keep a follower's state as a watch would."""
        follower.replace(self._under(prefix), self._revision)
        self._followers.append((prefix, follower))

    async def get(self, key: str) -> Stored | None:
        self._require_up()
        return self._items.get(key)

    async def list(self, prefix: str) -> tuple[dict[str, Stored], int]:
        self._require_up()
        return self._under(prefix), self._revision

    async def write(
        self, conditions: Sequence[Expect | Unchanged], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        self._require_up()
        if len(puts) + len(deletes) > MAX_TXN_OPERATIONS:
            raise ValueError("too many operations")
        self.before_write()
        if not all(self._holds(condition) for condition in conditions):
            return None
        return self.put(puts, deletes)

    def put(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> int:
        """Write without conditions."""
        gone = [key for key in deletes if key in self._items]
        if not puts and not gone:
            return self._revision
        self._revision += 1
        for key in gone:
            del self._items[key]
        self._items.update({key: Stored(value, self._revision) for key, value in puts.items()})
        for prefix, follower in self._followers:
            changed = [KeyChange(key, self._items.get(key), self._revision) for key in (*puts, *gone)]
            follower.apply([change for change in changed if change.key.startswith(prefix)], self._revision)
        return self._revision

    def _holds(self, condition: Expect | Unchanged) -> bool:
        if isinstance(condition, Expect):
            stored = self._items.get(condition.key)
            return (stored.mod_revision if stored else 0) == condition.mod_revision
        return condition.prefix in self.ignored_prefixes or all(
            stored.mod_revision <= condition.revision for stored in self._under(condition.prefix).values()
        )

    def _under(self, prefix: str) -> dict[str, Stored]:
        return {key: self._items[key] for key in sorted(self._items) if key.startswith(prefix)}

    def _require_up(self) -> None:
        if self.down:
            raise StoreUnavailableError("the config store does not answer")
