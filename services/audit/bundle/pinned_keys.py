"""Pinned keys: public keys that a verifier kept from before, and the sizes of the log that each may sign.

    <verifier key>                   any size
    <verifier key> <first>-<last>    sizes from first to last; without <last>, all from first on

A replaced signing key keeps its range, so that a thief of the old key cannot sign anything new with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.audit.proofs.signed_note import NoteError, VerifierKey


@dataclass(frozen=True, slots=True)
class PinnedKey:
    """One public key and the sizes it may sign."""

    key: VerifierKey
    first_size: int = 0
    last_size: int | None = None
    """None for a key that is still in use."""

    def __str__(self) -> str:
        if self.first_size == 0 and self.last_size is None:
            return str(self.key)
        return f"{self.key} {self.first_size}-{'' if self.last_size is None else self.last_size}"

    @classmethod
    def parse(cls, text: str) -> PinnedKey:
        """Parse the text form.

        Raises:
            NoteError: not a verifier key, or not a range.
        """
        key, cut, sizes = text.partition(" ")
        if not cut:
            return cls(VerifierKey.parse(key))
        first, _, last = sizes.partition("-")
        if not _is_number(first) or (last and not _is_number(last)):
            raise NoteError("not a range of sizes")
        pinned = cls(VerifierKey.parse(key), int(first), int(last) if last else None)
        if str(pinned) != text:
            raise NoteError("not a range of sizes")
        return pinned

    def require_size(self, size: int) -> None:
        """Check that the key may sign for a log of that size.

        Raises:
            NoteError: it may not.
        """
        if size < self.first_size or (self.last_size is not None and size > self.last_size):
            raise NoteError(f"the key may not sign for size {size}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """The pinned keys of one log. They verify no bundle of another log."""

    log: tuple[PinnedKey, ...]
    manifest: tuple[PinnedKey, ...]

    @classmethod
    def parse(cls, log_keys: Iterable[str], manifest_keys: Iterable[str]) -> PinnedKeys:
        """Parse keys in the text form.

        Raises:
            NoteError: one of them is not a key.
        """
        return cls(
            tuple(PinnedKey.parse(key) for key in log_keys),
            tuple(PinnedKey.parse(key) for key in manifest_keys),
        )
