"""The interface of a follower of the watch. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.config.etcd.store import Stored


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key's new value, or None for its deletion."""

    key: str
    stored: Stored | None
    mod_revision: int


class Follower:
    """Follows the live keys of etcd; methods that a subclass does not override do nothing.

    `EtcdWatch` calls its followers one after the other, in the order in which it was given them, without a pause in
    between. An exception ends the watch, and with it the process.
    """

    def replace(self, items: Mapping[str, Stored], revision: int) -> None:
        """Take over the whole state at a revision; a key that is not in it is gone."""

    def apply(self, changes: Sequence[KeyChange], revision: int) -> None:
        """Apply whole revisions up to `revision`; an empty list only says that etcd has reached it."""

    def heard(self) -> None:
        """Note a sign of life of etcd."""

    def lost(self) -> None:
        """Note that the connection to etcd is gone."""

    def history_ended(self) -> None:
        """Forget revisions: etcd was restored or exchanged, and a list of its new history follows."""
