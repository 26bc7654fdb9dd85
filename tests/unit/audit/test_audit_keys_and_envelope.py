"""One tenant's keys open nothing of another's, and a ciphertext opens under the key its log committed to only."""

from __future__ import annotations

import itertools
import os
import stat

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from services.audit.entry import ENTRY_BYTES, Entry, EntryFormatError, EntryKind, Header
from services.audit.envelope import DataKey, EnvelopeError, salted
from services.audit.keyset import FileKeyProvider, Keyring, Keyset, KeysetError


def header(**changes) -> Header:
    fields = {
        "kind": EntryKind.ADMIT,
        "log_id": b"L" * 16,
        "index": 3,
        "time_ns": 5,
        "record_id": b"R" * 16,
        "admit_record_id": bytes(16),
        "key_digest": bytes(16),
        "dek_id": b"D" * 16,
        "counter": 1,
    }
    return Header(**{**fields, **changes})


@given(
    index=st.integers(0, 2**64 - 1),
    kind=st.sampled_from(EntryKind),
    record=st.binary(min_size=16, max_size=16),
)
def test_an_entry_survives_its_bytes(index, kind, record):
    entry = Entry(
        header(index=index, kind=kind, record_id=record), b"c" * 32, (b"1" * 32, b"2" * 32, b"3" * 32)
    )
    data = entry.encode()
    assert len(data) == ENTRY_BYTES == 234
    assert Entry.decode(data) == entry
    with pytest.raises(EntryFormatError):
        Entry.decode(data[:-1])
    with pytest.raises(EntryFormatError):
        Entry.decode(b"\x02" + data[1:])


def test_content_comes_back_and_any_changed_header_field_closes_it():
    key = DataKey(os.urandom(32), b"L" * 16, b"D" * 16)
    sections = salted((b'{"m":1}', None, b'{"a":2}'), os.urandom)
    entry, ciphertext = key.seal(header(), sections)
    assert key.open(entry, ciphertext) == sections
    for change in (
        {"index": 4},
        {"time_ns": 6},
        {"kind": EntryKind.OUTCOME},
        {"record_id": b"S" * 16},
        {"log_id": b"M" * 16},
        {"counter": 2},
    ):
        with pytest.raises(EnvelopeError):
            key.open(Entry(header(**change), entry.ciphertext_digest, entry.commitments), ciphertext)
    with pytest.raises(EnvelopeError):
        key.open(
            Entry(entry.header, entry.ciphertext_digest, (b"0" * 32, *entry.commitments[1:])), ciphertext
        )


def test_the_same_text_twice_gives_other_commitments():
    one, two = (salted((b"{}", None, None), os.urandom)[0] for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.commitment() != two.commitment()


def test_a_committed_key_refuses_to_stand_in_for_another():
    ours, other = (DataKey(os.urandom(32), b"L" * 16, b"D" * 16) for _ in range(2))
    ours.require(ours.commitment)
    with pytest.raises(EnvelopeError):
        other.require(ours.commitment)


def all_pairs(root, unwrap_any):
    """Try to open every tenant's data keys with every other tenant's keyring; returns how many opened."""
    provider = FileKeyProvider(root / "root.kek")
    sets, dek_ids = {}, {}
    for number in range(6):
        log_id = bytes([number]) * 16
        keyset = Keyset.create(root / f"{number}", f"t{number}", log_id, provider)
        dek_ids[number] = keyset.new_dek().dek_id
        sets[number] = Keyring.decode((root / f"{number}").read_bytes())
    opened = 0
    for (_, mine), (number, foreign) in itertools.permutations(sets.items(), 2):
        dek_id = dek_ids[number]
        mine.wrapped_deks[dek_id] = foreign.wrapped_deks[dek_id]
        try:
            unwrap_any(Keyset(root / "x", mine, provider), dek_id)
            opened += 1
        except KeysetError:
            continue
    return opened


def test_no_tenants_keyring_opens_anothers_data_key(tmp_path):
    assert all_pairs(tmp_path, lambda keyset, dek_id: keyset.dek(dek_id)) == 0


def test_a_tenant_key_moved_to_another_tenant_does_not_open(tmp_path):
    provider = FileKeyProvider(tmp_path / "root.kek")
    Keyset.create(tmp_path / "a", "a", b"A" * 16, provider)
    stolen = Keyring.decode((tmp_path / "a").read_bytes())
    with pytest.raises(KeysetError):
        Keyset(tmp_path / "b", Keyring("b", b"B" * 16, stolen.wrapped_kek), provider)


def test_mutant_one_key_for_all_tenants_and_no_place_is_caught(tmp_path, monkeypatch):
    """Without a key and a place of its own for each tenant, the all-pairs test has to fail."""
    shared = b"k" * 32
    monkeypatch.setattr(
        "services.audit.keyset.wrap",
        lambda key, under, place, rnd: b"n" * 12 + AESGCM(shared).encrypt(b"n" * 12, key, None),
    )
    monkeypatch.setattr(
        "services.audit.keyset.unwrap",
        lambda wrapped, under, place: AESGCM(shared).decrypt(wrapped[:12], wrapped[12:], None),
    )
    assert all_pairs(tmp_path, lambda keyset, dek_id: keyset.dek(dek_id)) > 0


def test_key_files_are_private(tmp_path):
    FileKeyProvider(tmp_path / "keys" / "root.kek")
    assert stat.S_IMODE((tmp_path / "keys" / "root.kek").stat().st_mode) == 0o400
