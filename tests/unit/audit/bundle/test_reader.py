"""The reader gives the records of a bundle as values."""

from __future__ import annotations

from services.audit.bundle.reader import read_records
from services.audit.proofs.entry import EntryKind
from tests.unit.audit.bundle.forgery import a_log, changed, record_id, write


def test_records_come_in_order_with_what_they_are_outcomes_of(tmp_path):
    records = list(read_records(write(tmp_path / "b", a_log("one", "one!"))))
    assert [(one.index, one.kind) for one in records] == [
        (0, EntryKind.DEK_OPEN),
        (1, EntryKind.LOG_OPENED),
        (2, EntryKind.ADMIT),
        (3, EntryKind.OUTCOME),
    ]
    admit, outcome = records[2:]
    assert (admit.record_id, outcome.admit_record_id) == (record_id("one"), record_id("one"))
    assert (admit.time_ns, admit.meta, admit.prompt, admit.answer) == (
        200,
        {"of": "one"},
        {"text": "one"},
        None,
    )


def test_what_a_bundle_does_not_show_is_none(tmp_path):
    folder = write(tmp_path / "b", a_log("one"), change=changed(sections=("meta",)))
    *_, admit = read_records(folder)
    assert (admit.meta, admit.prompt) == ({"of": "one"}, None)
