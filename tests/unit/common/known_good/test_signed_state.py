"""Only the config service can sign a statement, and the statement is about one state only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.known_good import signed_state, state_digest
from services.common.known_good.signed_state import NotSignedError, Statement, StatementSigner, verified
from services.common.known_good.state_digest import StateDigest, digest_of
from tests.fakes.mutants import without

SIGNER, OTHER = StatementSigner(b"s" * 32), StatementSigner(b"t" * 32)
STATEMENT = Statement("c1", 1_800_000_000_000, 57, "0" * 64)
SIGNED = SIGNER.sign(STATEMENT)


def test_what_is_signed_comes_back():
    assert verified(SIGNED, SIGNER.public_key) == STATEMENT
    assert StatementSigner(b"s" * 32).public_key == SIGNER.public_key


@given(st.integers(0, 8 * len(SIGNED.text) - 1), st.booleans())
def test_any_flipped_bit_is_refused(bit, in_text):
    name = "text" if in_text else "signature"
    changed = bytearray(getattr(SIGNED, name))
    bit %= 8 * len(changed)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotSignedError):
        verified(replace(SIGNED, **{name: bytes(changed)}), SIGNER.public_key)


def test_another_signer_is_refused_whatever_it_calls_itself():
    with pytest.raises(NotSignedError, match="another config service"):
        verified(OTHER.sign(STATEMENT), SIGNER.public_key)
    with pytest.raises(NotSignedError, match="does not verify"):
        verified(replace(OTHER.sign(STATEMENT), signer=SIGNER.public_key), SIGNER.public_key)
    with pytest.raises(NotSignedError):
        verified(replace(SIGNED, signer=b""), b"")


def test_that_test_notices_signatures_nobody_checks():
    unchecked = without(signed_state, "statement-signature")
    claimed = replace(OTHER.sign(STATEMENT), signer=SIGNER.public_key)
    assert unchecked.verified(claimed, SIGNER.public_key).revision == 57


STATES = st.dictionaries(st.text(max_size=4), st.binary(max_size=4), max_size=40)


@given(STATES, STATES)
def test_a_digest_that_was_kept_up_is_that_of_the_whole(before, after):
    digest = StateDigest()
    for key, value in before.items():
        digest.put(key, value)
    assert digest.hexdigest() == digest_of(before.items())
    for key in before.keys() - after.keys():
        digest.remove(key)
    for key, value in after.items():
        digest.put(key, value)
    assert digest.hexdigest() == digest_of(after.items())
    assert (digest_of(before.items()) == digest_of(after.items())) is (before == after)


def test_the_order_of_items_does_not_matter_and_where_a_key_ends_does():
    items = [(f"k{number}", b"v") for number in range(1000)]
    assert digest_of(items) == digest_of(reversed(items))
    assert digest_of([("ab", b"c")]) != digest_of([("a", b"bc")])


def test_that_test_notices_a_bucket_that_is_not_counted_again():
    stale = without(state_digest, "bucket-is-counted-again")
    digest = stale.StateDigest()
    digest.put("a", b"1")
    before = digest.hexdigest()
    digest.put("a", b"2")
    assert digest.hexdigest() == before
