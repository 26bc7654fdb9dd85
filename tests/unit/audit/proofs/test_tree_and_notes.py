from __future__ import annotations

import hashlib
import re

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.audit.proofs.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from services.audit.proofs.signed_note import Checkpoint, NoteError, NoteSigner, VerifierKey, open_note
from services.audit.storage.frames import Commit

LEAVES = [leaf_hash(bytes([number])) for number in range(70)]


def naive_root(leaves):
    """RFC 6962's recursive definition, written as it stands there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    cut = 1
    while cut * 2 < len(leaves):
        cut *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:cut]) + naive_root(leaves[cut:])).digest()


def test_frontier_agrees_with_the_definition_at_every_size():
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for size, leaf in enumerate(LEAVES, start=1):
        frontier.push(leaf)
        assert frontier.root() == naive_root(LEAVES[:size]) == root_of(LEAVES[:size])
        again = Frontier(frontier.size, frontier.hashes)
        assert again.root() == frontier.root()


@given(size=st.integers(1, 70), data=st.data())
def test_inclusion(size, data):
    index = data.draw(st.integers(0, size - 1))
    leaves, proof = LEAVES[:size], inclusion_proof(LEAVES[:size], index)
    root = root_of(leaves)
    verify_inclusion(leaves[index], index, size, proof, root)
    for wrong in (
        (LEAVES[(index + 1) % 70], index, size, proof, root),
        (leaves[index], index, size, [*proof, LEAVES[0]], root),
        (leaves[index], index, size, proof, LEAVES[0]),
        (leaves[index], size, size, proof, root),
    ):
        if wrong[:1] == (leaves[index],) and wrong[4] == root and wrong[3] == proof and wrong[1] == index:
            continue
        with pytest.raises(ProofError):
            verify_inclusion(*wrong)


@given(new=st.integers(1, 70), data=st.data())
def test_consistency(new, data):
    old = data.draw(st.integers(1, new))
    proof = consistency_proof(LEAVES[:new], old)
    old_root, new_root = root_of(LEAVES[:old]), root_of(LEAVES[:new])
    verify_consistency(old, old_root, new, new_root, proof)
    forked = root_of([*LEAVES[: old - 1], leaf_hash(b"forged")])
    with pytest.raises(ProofError):
        verify_consistency(old, forked, new, new_root, proof)
    with pytest.raises(ProofError):
        verify_consistency(old, old_root, new, new_root, [*proof, LEAVES[0]])


def test_a_note_opens_for_its_key_only_and_every_flip_is_noticed():
    signer = NoteSigner("tenantry/audit/aa", Ed25519PrivateKey.generate())
    checkpoint = Checkpoint("tenantry/audit/aa", 7, root_of(LEAVES[:7]))
    note = signer.sign(checkpoint.text())
    key = VerifierKey.parse(str(signer.verifier_key))
    assert Checkpoint.parse(open_note(note, key)) == checkpoint
    other = NoteSigner("tenantry/audit/aa", Ed25519PrivateKey.generate())
    with pytest.raises(NoteError):
        open_note(note, other.verifier_key)
    for place in range(len(note)):
        for bit in range(8):
            flipped = note[:place] + bytes([note[place] ^ 1 << bit]) + note[place + 1 :]
            with pytest.raises(NoteError):
                Checkpoint.parse(open_note(flipped, key))
    with pytest.raises(NoteError):
        open_note(note + note.splitlines(keepends=True)[-1], key)


def test_a_commit_and_a_checkpoint_never_pass_for_each_other():
    """One key signs both. No values of their fields make the message of one that of the other."""
    commit = Commit(1, 2, 3, bytes(32), bytes(32))
    assert commit.message() == b"tenantry/audit/commit/v1\n" + commit.encode()
    key = Ed25519PrivateKey.generate()
    with pytest.raises(InvalidSignature):
        key.public_key().verify(key.sign(commit.encode()), commit.message())
    origin = commit.message().split(b"\n")[0].decode()
    assert not re.fullmatch(r"tenantry/audit/[0-9a-f]{32}", origin)
