"""One tenant's keys open nothing of another's, and a ciphertext opens under the key its log committed to only."""

from __future__ import annotations

import itertools
import json
import os
import stat

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from services.audit.keys.envelope import DataKey, EnvelopeError, salted
from services.audit.keys.keyring import Keyring, WrappedKek
from services.audit.keys.keyset import KeyDestroyedError, Keyset
from services.audit.keys.root import FileKeyProvider
from services.audit.keys.wrap import KeysetError, dek_place, kek_place, unwrap, wrap
from services.audit.proofs.entry import ENTRY_BYTES, Entry, EntryFormatError, EntryKind, Header


def header(**changes) -> Header:
    fields = {
        "kind": EntryKind.ADMIT,
        "log_id": b"L" * 16,
        "index": 3,
        "time_ns": 5,
        "record_id": b"R" * 16,
        "admit_record_id": bytes(16),
        "key_digest": bytes(16),
        "session_id": b"s" * 16,
        "writer_digest": b"w" * 16,
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
    assert len(data) == ENTRY_BYTES == 266
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
        {"session_id": b"t" * 16},
        {"writer_digest": b"x" * 16},
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
        keyset.save()
        sets[number] = Keyring.decode((root / f"{number}").read_bytes())
    opened = 0
    for (_, mine), (number, foreign) in itertools.permutations(sets.items(), 2):
        dek_id = dek_ids[number]
        mine.deks[dek_id] = foreign.deks[dek_id]
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
        Keyset(tmp_path / "b", Keyring("b", b"B" * 16, stolen.keks), provider)


def test_mutant_one_key_for_all_tenants_and_no_place_is_caught(tmp_path, monkeypatch):
    """Without a key and a place of its own for each tenant, the all-pairs test has to fail."""
    shared = b"k" * 32
    for module in ("keyset", "root"):
        monkeypatch.setattr(
            f"services.audit.keys.{module}.wrap",
            lambda key, under, place, rnd: b"n" * 12 + AESGCM(shared).encrypt(b"n" * 12, key, None),
        )
        monkeypatch.setattr(
            f"services.audit.keys.{module}.unwrap",
            lambda wrapped, under, place: AESGCM(shared).decrypt(wrapped[:12], wrapped[12:], None),
        )
    assert all_pairs(tmp_path, lambda keyset, dek_id: keyset.dek(dek_id)) > 0


def test_key_files_are_private(tmp_path):
    FileKeyProvider(tmp_path / "keys" / "root.kek")
    assert stat.S_IMODE((tmp_path / "keys" / "root.kek").stat().st_mode) == 0o400


def test_a_root_key_of_another_version_opens_nothing(tmp_path):
    path = tmp_path / "root.kek"
    keyset = Keyset.create(tmp_path / "a", "a", b"A" * 16, FileKeyProvider(path))
    dek_id = keyset.new_dek().dek_id
    keyset.save()
    first = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(first + (2).to_bytes(4, "big") + os.urandom(32))
    rotated = FileKeyProvider(path)
    assert rotated.root_version == 2
    assert Keyset.load(tmp_path / "a", rotated).dek(dek_id).dek_id == dek_id
    newer = Keyset.create(tmp_path / "b", "b", b"B" * 16, rotated)
    newer.new_dek()
    # The old root is gone, so a wrap under it does not open under any claimed version.
    path.write_bytes(path.read_bytes()[36:])
    only_new = FileKeyProvider(path)
    with pytest.raises(KeysetError, match="no root key of version 1"):
        Keyset.load(tmp_path / "a", only_new)
    Keyset.load(tmp_path / "b", only_new)


@pytest.mark.parametrize("length", [0, 32, 35, 72], ids=["empty", "no version", "short", "version twice"])
def test_a_root_key_file_of_another_form_is_refused(tmp_path, length):
    path = tmp_path / "root.kek"
    path.write_bytes((((1).to_bytes(4, "big") + b"k" * 32) * 2)[:length])
    with pytest.raises(KeysetError):
        FileKeyProvider(path)


def edited(tmp_path, change) -> Keyset:
    """A keyring whose file was changed, loaded."""
    provider = FileKeyProvider(tmp_path / "root.kek")
    keyset = Keyset.create(tmp_path / "a", "a", b"A" * 16, provider)
    keyset.new_dek()
    keyset.save()
    document = json.loads((tmp_path / "a").read_bytes())
    change(document)
    (tmp_path / "a").write_text(json.dumps(document))
    return Keyset.load(tmp_path / "a", provider)


def dek_of(document):
    (dek,) = document["deks"].values()
    return dek


@pytest.mark.parametrize(
    "change",
    [
        lambda ring: ring.update(version=2),
        lambda ring: ring.update(version=True),
        lambda ring: ring.pop("version"),
        lambda ring: ring.update(note="new"),
        lambda ring: ring.update(keks=[]),
        lambda ring: ring["keks"].append(ring["keks"][0]),
        lambda ring: ring["keks"][0].update(root_version=2),
        lambda ring: ring["keks"][0].update(root_version=0),
        lambda ring: ring["keks"][0].update(version=2),
        lambda ring: ring["keks"][0].update(wrapped="00"),
        lambda ring: dek_of(ring).update(kek_version=2),
        lambda ring: dek_of(ring).update(kek_version="1"),
    ],
)
def test_a_keyring_of_another_version_or_form_is_refused(tmp_path, change):
    with pytest.raises(KeysetError):
        edited(tmp_path, change)


def test_wraps_are_bound_to_the_versions_they_name():
    """Moving a wrap to another version of the key above it, or of itself, closes it."""
    root, kek, dek = (os.urandom(32) for _ in range(3))
    wrapped = wrap(kek, root, kek_place("a", b"A" * 16, 1, 1), os.urandom)
    assert unwrap(wrapped, root, kek_place("a", b"A" * 16, 1, 1)) == kek
    for place in (kek_place("a", b"A" * 16, 2, 1), kek_place("a", b"A" * 16, 1, 2)):
        with pytest.raises(KeysetError):
            unwrap(wrapped, root, place)
    wrapped = wrap(dek, kek, dek_place("a", b"A" * 16, 1, b"D" * 16), os.urandom)
    with pytest.raises(KeysetError):
        unwrap(wrapped, kek, dek_place("a", b"A" * 16, 2, b"D" * 16))


def test_a_new_version_of_the_tenant_key_wraps_new_data_keys_and_old_ones_still_open(tmp_path):
    provider = FileKeyProvider(tmp_path / "root.kek")
    keyset = Keyset.create(tmp_path / "a", "a", b"A" * 16, provider)
    old = keyset.new_dek()
    keyset.save()
    ring = Keyring.decode((tmp_path / "a").read_bytes())
    ring.keks[2] = WrappedKek(1, provider.wrap(os.urandom(32), kek_place("a", b"A" * 16, 1, 2)))
    keyset = Keyset(tmp_path / "a", ring, provider)
    new = keyset.new_dek()
    keyset.save()
    ring = Keyring.decode((tmp_path / "a").read_bytes())
    assert {dek_id: dek.kek_version for dek_id, dek in ring.deks.items()} == {old.dek_id: 1, new.dek_id: 2}
    assert keyset.dek(old.dek_id).commitment == old.commitment


def test_destroying_a_tenant_key_closes_its_data_keys_and_says_so(tmp_path):
    provider = FileKeyProvider(tmp_path / "root.kek")
    keyset = Keyset.create(tmp_path / "a", "a", b"A" * 16, provider)
    dek_id = keyset.new_dek().dek_id
    framed = keyset.framed(dek_id)
    keyset.save()
    ring = Keyring.decode((tmp_path / "a").read_bytes())
    ring.keks[1] = WrappedKek(1, None)
    (tmp_path / "a").write_bytes(ring.encode())
    keyset = Keyset.load(tmp_path / "a", provider)
    with pytest.raises(KeyDestroyedError):
        keyset.dek(dek_id)
    with pytest.raises(KeyDestroyedError):
        keyset.new_dek()
    # Nor does the wrap in the log's frame, with or without the file's.
    del ring.deks[dek_id]
    with pytest.raises(KeyDestroyedError):
        Keyset(tmp_path / "a", ring, provider).dek(dek_id, framed)


def test_a_data_key_is_known_from_its_frame_where_the_file_is_older(tmp_path):
    provider = FileKeyProvider(tmp_path / "root.kek")
    keyset = Keyset.create(tmp_path / "a", "a", b"A" * 16, provider)
    key = keyset.new_dek()
    framed = keyset.framed(key.dek_id)
    older = Keyset.load(tmp_path / "a", provider)
    with pytest.raises(KeysetError):
        older.dek(key.dek_id)
    assert older.dek(key.dek_id, framed).commitment == key.commitment
    with pytest.raises(KeysetError):
        older.dek(key.dek_id, framed[:-1])
    older.adopt(key.dek_id, framed)
    older.save()
    assert Keyset.load(tmp_path / "a", provider).dek(key.dek_id).commitment == key.commitment
