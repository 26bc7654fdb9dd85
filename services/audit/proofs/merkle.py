"""Merkle trees of RFC 6962, section 2: roots, a growing frontier, inclusion, range and consistency proofs.

Pure. Hashes are 32-byte SHA-256; leaves are 0-indexed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(ValueError):
    """A proof does not lead to the root, or has the wrong number of hashes."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree: enough to append and to know the root, O(log n) hashes."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if len(hashes) != size.bit_count():
            raise ValueError(f"a frontier of {size} leaves has {size.bit_count()} hashes, not {len(hashes)}")
        self.size = size
        self.hashes = list(hashes)
        """One perfect subtree for each set bit of `size`, largest first."""

    def push(self, leaf: bytes) -> None:
        """Append a leaf hash."""
        self.push_subtree(leaf, 0)

    def push_subtree(self, root: bytes, level: int) -> None:
        """Append 2^level leaves by the root over them; `size` has to be a multiple of 2^level."""
        place = self.size >> level
        carried = root
        for _ in range((~place & (place + 1)).bit_length() - 1):
            carried = node_hash(self.hashes.pop(), carried)
        self.hashes.append(carried)
        self.size += 1 << level

    def root(self) -> bytes:
        """The tree's root."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of a list of leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.push(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, leaves) of RFC 6962, section 2.1.1."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    if len(leaves) == 1:
        return []
    cut = _split(len(leaves))
    if index < cut:
        return [*inclusion_proof(leaves[:cut], index), root_of(leaves[cut:])]
    return [*inclusion_proof(leaves[cut:], index - cut), root_of(leaves[:cut])]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check an inclusion proof (RFC 9162, section 2.1.3.2).

    Raises:
        ProofError: the leaf is not at that index of the tree with that root.
    """
    if not 0 <= index < size:
        raise ProofError("the index lies outside the tree")
    position, last, running = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofError("the proof is too long")
        if position & 1 or position == last:
            running = node_hash(step, running)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            running = node_hash(running, step)
        position, last = position >> 1, last >> 1
    if last != 0 or running != root:
        raise ProofError("the proof does not lead to the root")


@dataclass(frozen=True, slots=True)
class RangeProof:
    """Leads from the leaves first..end-1 to the root of a tree: the rest of the tree in as few hashes as possible."""

    left: tuple[bytes, ...] = ()
    """The frontier of the tree's first `first` leaves."""
    right: tuple[bytes, ...] = ()
    """Roots of the perfect subtrees over the leaves from `end` on, left to right; `right_levels` gives their sizes."""


def right_levels(end: int, size: int) -> Iterator[int]:
    """Levels of the perfect subtrees over the leaves end..size-1: at each place the largest that begins there."""
    while end < size:
        fitting = (size - end).bit_length() - 1
        level = min(fitting, (end & -end).bit_length() - 1) if end else fitting
        yield level
        end += 1 << level


def range_proof(leaves: Sequence[bytes], first: int, end: int) -> RangeProof:
    """The proof for a part of a list of leaf hashes."""
    if not 0 <= first <= end <= len(leaves):
        raise IndexError(first, end)
    left = Frontier()
    for leaf in leaves[:first]:
        left.push(leaf)
    right, place = [], end
    for level in right_levels(end, len(leaves)):
        right.append(root_of(leaves[place : place + (1 << level)]))
        place += 1 << level
    return RangeProof(tuple(left.hashes), tuple(right))


def finish_range(frontier: Frontier, size: int, right: Sequence[bytes]) -> None:
    """Complete a frontier, which holds the proof's left hashes and the range's leaves, to a tree of `size` leaves.

    Raises:
        ProofError: there are more or fewer hashes on the right than such a range has.
    """
    levels = list(right_levels(frontier.size, size))
    if len(levels) != len(right):
        raise ProofError("the proof has another number of hashes")
    for root, level in zip(right, levels, strict=True):
        frontier.push_subtree(root, level)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """PROOF(old_size, leaves) of RFC 6962, section 2.1.2."""
    if not 0 < old_size <= len(leaves):
        raise IndexError(old_size)
    return _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [root_of(leaves)]
    cut = _split(len(leaves))
    if old_size <= cut:
        return [*_subproof(leaves[:cut], old_size, whole=whole), root_of(leaves[cut:])]
    return [*_subproof(leaves[cut:], old_size - cut, whole=False), root_of(leaves[:cut])]


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the old tree is a prefix of the new one (RFC 9162, section 2.1.4.2).

    Raises:
        ProofError: it is not, or the proof does not show it.
    """
    if not 0 < old_size <= new_size:
        raise ProofError("the old tree is empty or larger than the new one")
    if old_size == new_size:
        if proof or old_root != new_root:
            raise ProofError("trees of one size have one root and an empty proof")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofError("the proof is empty")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old, new = path[0], path[0]
    for step in path[1:]:
        if last == 0:
            raise ProofError("the proof is too long")
        if position & 1 or position == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, step)
        position, last = position >> 1, last >> 1
    if last != 0 or old != old_root or new != new_root:
        raise ProofError("the proof does not lead from the old root to the new one")
