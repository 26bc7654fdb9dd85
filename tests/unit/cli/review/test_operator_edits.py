"""The operator log as edits: each intent with the outcome that counts, chosen by who, what, where and when."""

from __future__ import annotations

import pytest

from services.audit.bundle.reader import BundleRecord
from services.audit.proofs.entry import EntryKind
from services.cli.review import operator_edits
from services.cli.review.operator_edits import Edit, EditFilter, Gap, chosen, read_edits
from tests.fakes.mutants import replaced, without


def intent(index: int, method: str, resource: str, operator: str = "ada", **details) -> BundleRecord:
    meta = {"method": method, "resource": resource, "operator": operator, "role": "platform-admin", **details}
    return BundleRecord(
        index,
        EntryKind.ADMIN_INTENT,
        index * 100,
        bytes([index]) * 16,
        bytes(16),
        meta,
        {"reason": "why"},
        None,
    )


def outcome(index: int, of: int, said: str, revision: int = 0) -> BundleRecord:
    meta = {"outcome": said, "revision": revision}
    return BundleRecord(
        index, EntryKind.ADMIN_OUTCOME, index * 100, bytes([index]) * 16, bytes([of]) * 16, meta, None, None
    )


def test_an_edit_has_the_last_of_its_outcomes():
    edits = read_edits(
        [
            intent(2, "SuspendTenant", "tenants/acme"),
            intent(3, "UpdateTenant", "tenants/globex"),
            outcome(4, 2, "unknown"),
            outcome(5, 2, "written", 17),
            outcome(6, 3, "refused"),
            intent(7, "DeletePool", "pools/a"),
        ]
    )
    assert [(one.index, one.method, one.outcome, one.revision) for one in edits] == [
        (2, "SuspendTenant", "written", 17),
        (3, "UpdateTenant", "refused", 0),
        (7, "DeletePool", "open", 0),
    ]
    assert (edits[0].reason, edits[0].time_ns, edits[0].role) == ("why", 200, "platform-admin")


def written_twice_concluded(module):
    [edit] = module.read_edits(
        [intent(2, "SuspendTenant", "tenants/acme"), outcome(4, 2, "written", 17), outcome(5, 2, "unknown")]
    )
    return edit.outcome, edit.revision


def test_an_edit_that_was_written_stays_written_whatever_is_recorded_after():
    assert written_twice_concluded(operator_edits) == ("written", 17)


def test_that_test_fails_where_the_last_outcome_always_counts():
    assert written_twice_concluded(without(operator_edits, "written-counts")) == ("unknown", 0)


def test_a_new_key_is_named_and_other_kinds_are_no_edits():
    review = BundleRecord(1, EntryKind.REVIEW, 0, b"r" * 16, bytes(16), {"method": "ExportLog"}, None, None)
    [edit] = read_edits([review, intent(2, "CreateKey", "tenants/acme", key_id="7d22", size=3)])
    assert edit.resource == "tenants/acme/keys/7d22"
    assert edit.details == {"key_id": "7d22", "size": 3}


def test_an_entry_whose_content_is_not_shown_is_an_edit_of_unknown_kind():
    hidden = BundleRecord(2, EntryKind.ADMIN_INTENT, 5, b"h" * 16, bytes(16), None, None, None)
    [edit] = read_edits([hidden])
    assert (edit.method, edit.operator, edit.outcome) == ("", "", "open")


ACME = Edit(1, 1000, "ada", "platform-admin", "CreateKey", "tenants/acme/keys/7d22", "")


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (EditFilter(), True),
        (EditFilter(operator="ada"), True),
        (EditFilter(operator="bob"), False),
        (EditFilter(method="createkey"), True),
        (EditFilter(method="RevokeKey"), False),
        (EditFilter(resource="acme"), True),
        (EditFilter(resource="acm"), False),
        (EditFilter(resource="7d22"), True),
        (EditFilter(resource="tenants/acme"), True),
        (EditFilter(resource="tenants/acme/keys/7d22"), True),
        (EditFilter(resource="tenants/acm"), False),
        (EditFilter(since_ns=1000), True),
        (EditFilter(since_ns=1001), False),
        (EditFilter(until_ns=1001), True),
        (EditFilter(until_ns=1000), False),
        (EditFilter(operator="ada", method="CreateKey", resource="acme", since_ns=0, until_ns=9999), True),
    ],
)
def test_a_filter_lets_through_what_fits_every_part(wanted, fits):
    assert wanted.lets_through(ACME) is fits


def test_a_gap_is_shown_under_every_filter_since_what_was_lost_may_have_fitted():
    lost = BundleRecord(
        3, EntryKind.GAP, 7, b"g" * 16, bytes(16), {"dropped": 2, "writer": "config"}, None, None
    )
    edits = read_edits([intent(2, "SuspendTenant", "tenants/acme"), lost])
    assert list(chosen(edits, EditFilter(operator="nobody"))) == [Gap(3, 7, 2, "config")]


def test_that_test_fails_where_gaps_are_filtered_like_edits():
    broken = replaced(operator_edits, "chosen", lambda edits, _: [e for e in edits if isinstance(e, Edit)])
    assert list(broken.chosen([Gap(3, 7, 2, "config")], EditFilter())) == []
