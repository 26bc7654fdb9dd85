"""A journal is believed only under the signature of its own key."""

from __future__ import annotations

import pytest

from services.audit.storage import recovery
from services.audit.storage.frames import Frame, FrameKind
from services.audit.storage.journal import JournalWriter
from services.audit.storage.recovery import JournalDamagedError
from tests.fakes.mutants import without
from tests.unit.audit.audit_state import keys_of


def journal_by(tmp_path, signing_key) -> list:
    folder = tmp_path / "journal"
    folder.mkdir()
    writer = JournalWriter(folder, 1, signing_key, 1, bytes(32))
    writer.write([Frame(FrameKind.SESSION, b"s" * 16 + bytes(8))])
    writer.close()
    return [(path, path.read_bytes()) for path in folder.iterdir()]


def test_a_journal_that_another_key_signed_is_damage(tmp_path):
    files = journal_by(tmp_path, keys_of(tmp_path / "other").log)
    ours = keys_of(tmp_path).log.public_key()
    with pytest.raises(JournalDamagedError):
        recovery.recover(files, ours, bytes(32), 1)


def test_mutant_that_asks_no_signature_believes_it(tmp_path):
    files = journal_by(tmp_path, keys_of(tmp_path / "other").log)
    believing = without(recovery, "commit-signature")
    found = believing.recover(files, keys_of(tmp_path).log.public_key(), bytes(32), 1)
    assert len(found.frames) == 1
