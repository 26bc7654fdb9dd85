from __future__ import annotations

import pytest

from services.common.sealed_artifact import (
    SealedArtifactError,
    artifact_associated_data,
    open_sealed,
    seal,
)

KEY = bytes(range(32))
BOUND_TO = artifact_associated_data("t-1", "a" * 64)


def test_what_was_sealed_opens_and_no_two_seals_are_alike():
    first, second = seal(KEY, BOUND_TO, b"weights"), seal(KEY, BOUND_TO, b"weights")
    assert first != second
    assert open_sealed(KEY, BOUND_TO, first) == open_sealed(KEY, BOUND_TO, second) == b"weights"


@pytest.mark.parametrize(
    ("key", "bound_to"),
    [
        (bytes(32), BOUND_TO),
        (KEY, artifact_associated_data("t-2", "a" * 64)),
        (KEY, artifact_associated_data("t-1", "b" * 64)),
    ],
)
def test_another_tenant_digest_or_key_opens_nothing(key, bound_to):
    with pytest.raises(SealedArtifactError):
        open_sealed(key, bound_to, seal(KEY, BOUND_TO, b"weights"))


def test_every_flipped_byte_is_noticed():
    sealed = seal(KEY, BOUND_TO, b"weights")
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(SealedArtifactError):
            open_sealed(KEY, BOUND_TO, bytes(damaged))


def test_short_bytes_and_short_keys_are_refused():
    with pytest.raises(SealedArtifactError):
        open_sealed(KEY, BOUND_TO, b"\x01short")
    with pytest.raises(ValueError, match="32 bytes"):
        seal(b"short", BOUND_TO, b"")
    with pytest.raises(ValueError, match="SHA-256"):
        artifact_associated_data("t-1", "abc")
