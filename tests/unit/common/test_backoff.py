from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.backoff import Backoff


@given(base=st.floats(0.001, 1), cap=st.floats(1, 60), failures=st.integers(1, 80))
def test_a_delay_never_exceeds_the_cap_or_its_own_ceiling(base, cap, failures):
    backoff = Backoff(base, cap)
    for failure in range(failures):
        assert 0 <= backoff.next_delay_seconds() <= min(cap, base * 2.0 ** min(failure, 30))
    backoff.reset()
    assert backoff.next_delay_seconds() <= base
