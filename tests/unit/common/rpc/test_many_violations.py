"""For any number of wrong fields the caller gets a readable answer, with as many of them as fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FieldViolation, InvalidArgumentError
from services.common.rpc.status import fitting, from_status, to_status

# What grpc's callers take of metadata by default, less the base64 of the trailer and the other headers.
FITS_BYTES = 8192 * 3 // 4 - 512

printable = st.characters(min_codepoint=32, max_codepoint=126)
violations = st.lists(
    st.builds(FieldViolation, st.text(printable, min_size=1, max_size=60), st.text(printable, max_size=100)),
    max_size=300,
)


@given(violations)
def test_a_status_fits_into_a_trailer(found):
    assert to_status(InvalidArgumentError(found)).ByteSize() <= FITS_BYTES


def test_hundred_wrong_fields_are_all_named():
    found = [
        FieldViolation(f"tenant.config.guardrails[{n}].pattern", "has 2000 bytes, more than 1024")
        for n in range(100)
    ]
    status = to_status(InvalidArgumentError(found))
    assert status.ByteSize() <= FITS_BYTES
    again = from_status(status)
    assert {violation.field for violation in again.violations} == {violation.field for violation in found}
    assert again.violations[0].description
    assert "and 95 more" in again.message


@given(violations)
def test_nothing_is_left_out_unsaid(found):
    shown = fitting(found)
    fields = [violation.field for violation in found]
    if [violation.field for violation in shown] == fields:
        return
    *kept, last = shown
    assert [violation.field for violation in kept] == fields[: len(kept)]
    assert last == FieldViolation("", f"and {len(found) - len(kept)} more")
