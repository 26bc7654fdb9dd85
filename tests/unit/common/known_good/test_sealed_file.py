"""The bytes of one file: which open, and which are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.known_good import sealed_file
from services.common.known_good.sealed_file import (
    AnotherClusterError,
    AnotherKindError,
    AnotherOwnerError,
    DamagedError,
    Expected,
    ForeignKeyError,
    FromTheFutureError,
    Header,
    Kind,
    KnownGoodError,
    TooOldError,
    TruncatedError,
    UnknownFormatError,
    require,
    seal,
    unseal,
)
from tests.fakes.mutants import without

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
PATH = Path("/state/known-good.1")
NOW = 1_800_000_000.0
HEADER = Header(Kind.CONFIG, "cdf818194e3a8c32", "config", 57, int(NOW * 1000))
EXPECTED = Expected(Kind.CONFIG, "config", 86_400.0, "cdf818194e3a8c32")
PARTS = [b"tenants/1", b"", b"x" * 300]
HEADERS = st.builds(
    Header,
    st.sampled_from(Kind),
    st.text(max_size=20),
    st.text(max_size=20),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
)


def sealed(header: Header = HEADER, parts=PARTS, key: bytes = KEY) -> bytes:
    return b"".join(seal(key, header, parts))


@given(HEADERS, st.lists(st.binary(max_size=200), max_size=20))
def test_what_is_sealed_opens_as_it_was(header, parts):
    known = unseal(KEY, PATH, sealed(header, parts))
    assert (known.header, list(known.parts)) == (header, parts)


def test_parts_longer_than_what_is_encrypted_at_once_come_back_whole():
    parts = [b"a" * 700_000, b"b", b"c" * 262_144]
    assert list(unseal(KEY, PATH, sealed(parts=parts)).parts) == parts


def test_the_header_can_be_read_without_the_key_and_the_payload_cannot():
    data = sealed(parts=[b"quokka-canary"])
    assert b'"cluster_id":"cdf818194e3a8c32","kind":"config","owner":"config"' in data
    assert b"quokka" not in data
    assert sealed(parts=[b"quokka-canary"]) != data


@given(st.integers(0, len(sealed()) - 1))
def test_any_truncation_is_refused(length):
    with pytest.raises(TruncatedError, match=r"/state/known-good\.1: ends early"):
        unseal(KEY, PATH, sealed()[:length])


@settings(max_examples=500)
@given(st.integers(0, 8 * len(sealed()) - 1))
def test_any_flipped_bit_is_refused(bit):
    damaged = bytearray(sealed())
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(KnownGoodError, match=r"/state/known-good\.1: "):
        unseal(KEY, PATH, bytes(damaged))


def test_what_follows_the_end_is_refused():
    with pytest.raises(DamagedError):
        unseal(KEY, PATH, sealed() + b"\x00")


@pytest.mark.parametrize(
    "data", [b"not one of ours at all", sealed().replace(b"-v1\n", b"-v2\n", 1)], ids=["foreign", "version 2"]
)
def test_another_format_is_refused(data):
    with pytest.raises(UnknownFormatError):
        unseal(KEY, PATH, data)


def test_another_key_opens_nothing_and_is_told_from_damage():
    with pytest.raises(ForeignKeyError, match="sealed under another key"):
        unseal(OTHER_KEY, PATH, sealed())


def rechecked(data: bytes) -> bytes:
    """With a checksum that fits, as can be made without the key."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


@given(st.integers(28, len(sealed()) - 33))
def test_whoever_mends_the_checksum_is_refused_by_the_seal(place):
    forged = bytearray(sealed())
    forged[place] ^= 1
    with pytest.raises((DamagedError, ForeignKeyError)):
        unseal(KEY, PATH, rechecked(bytes(forged)))


def test_a_header_from_another_file_is_refused():
    older, newer = sealed(), sealed(replace(HEADER, revision=58))
    assert len(older) == len(newer)
    head_end = older.index(b"}") + 1
    with pytest.raises(DamagedError, match="without its key"):
        unseal(KEY, PATH, rechecked(newer[:head_end] + older[head_end:]))


REFUSALS = [
    (replace(HEADER, kind=Kind.ROUTER), AnotherKindError),
    (replace(HEADER, owner="router-2"), AnotherOwnerError),
    (replace(HEADER, cluster_id="1"), AnotherClusterError),
    (replace(HEADER, cluster_id=""), AnotherClusterError),
    (replace(HEADER, written_unix_ms=int((NOW - 86_401) * 1000)), TooOldError),
    (replace(HEADER, written_unix_ms=int((NOW + 61) * 1000)), FromTheFutureError),
]


@pytest.mark.parametrize(("header", "error"), REFUSALS)
def test_what_is_not_ours_or_not_recent_is_refused_by_name(header, error):
    known = unseal(KEY, PATH, sealed(header))
    with pytest.raises(error, match=r"/state/known-good\.1: "):
        require(EXPECTED, known, NOW)


@pytest.mark.parametrize("seconds", [0, -86_399, 59])
def test_what_is_ours_and_recent_is_taken(seconds):
    header = replace(HEADER, written_unix_ms=int((NOW + seconds) * 1000))
    require(EXPECTED, unseal(KEY, PATH, sealed(header)), NOW)
    require(replace(EXPECTED, cluster_id=""), unseal(KEY, PATH, sealed(header)), NOW)


@pytest.mark.parametrize(
    ("mark", "header"), [("not-too-old", REFUSALS[4][0]), ("of-this-cluster", REFUSALS[2][0])]
)
def test_mutant_without_a_check_takes_what_is_too_old_or_of_another_cluster(mark, header):
    broken = without(sealed_file, mark)
    broken.require(EXPECTED, unseal(KEY, PATH, sealed(header)), NOW)


def test_mutant_without_the_key_commitment_leaves_it_to_the_seal_alone():
    broken = without(sealed_file, "foreign-key-is-named")
    with pytest.raises(broken.DamagedError, match="without its key"):
        broken.unseal(OTHER_KEY, PATH, sealed())
