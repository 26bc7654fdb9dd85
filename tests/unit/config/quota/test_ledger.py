"""The quota ledger against routers that die, repeat requests, are late and spend all they hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.config.quota import ledger as real_ledger
from services.config.quota.allowances import Allowed
from services.config.quota.ledger import Account, Claim, Slice, lease
from services.config.quota.windows import Span, Window, span_at
from tests.fakes.mutants import changed

HOUR = span_at(Window.HOUR, 1_800_000_000)
EXAMPLES = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# A mutant's failure has to be found; it need not be shrunk.
SEARCH = settings(EXAMPLES, max_examples=5000, phases=[Phase.generate])


@dataclass
class Router:
    """The true spending of one router that ignores ends of leases: it may spend all it was granted in this window."""

    session: int = 0
    sequence: int = 0
    spendable: int = 0
    unreported: int = 0
    asked: Claim | None = None


class Quota(RuleBasedStateMachine):
    ledger = real_ledger

    def __init__(self):
        super().__init__()
        self.account = None
        self.tokens = self.highest = 1000
        self.now = HOUR.start_seconds + 3000.0
        self.routers = [Router() for _ in range(2)]
        self.network: list[tuple[int, Claim]] = []
        self.spent = 0

    which = st.integers(0, 1)

    @rule(which=which, wanted=st.sampled_from([0, 100, 600]), share=st.sampled_from([0, 0.3, 1]))
    def ask(self, which, wanted, share):
        router = self.routers[which]
        if router.asked is not None:
            return
        router.sequence += 1
        returned = int(router.spendable * share)
        router.asked = Claim(
            f"r{which}", f"s{router.session}", router.sequence, span_at(Window.HOUR, self.now).start_seconds,
            router.unreported, returned, wanted,
        )  # fmt: skip
        router.spendable -= returned
        router.unreported = 0
        self.network.append((which, router.asked))

    @rule(back=st.sampled_from([1, 1, 1, 2, 3, 5]), answered=st.sampled_from([True, True, False]))
    def deliver(self, back, answered):
        """Deliver any request ever sent, perhaps again; its answer may be lost."""
        if not self.network:
            return
        which, claim = self.network[-min(back, len(self.network))]
        before = self.account
        self.account, grant = self.ledger.lease(
            before, claim, Allowed(self.tokens), span_at(Window.HOUR, self.now), self.now, 30.0
        )
        if grant.granted_units and self.account is not before:
            assert self.total() <= self.tokens
        router = self.routers[which]
        if answered and router.asked is claim:
            router.asked = None
            router.spendable += grant.granted_units

    @rule(which=which, share=st.sampled_from([0.5, 1]))
    def spend(self, which, share):
        router = self.routers[which]
        spent = int(router.spendable * share)
        router.spendable -= spent
        router.unreported += spent
        self.spent += spent

    @rule(which=which)
    def kill(self, which):
        session = self.routers[which].session + 1
        self.routers[which] = Router(session)

    @rule(seconds=st.sampled_from([1.0, 16.0, 31.0, 600.0]))
    def pass_time(self, seconds):
        before = span_at(Window.HOUR, self.now)
        self.now += seconds
        if span_at(Window.HOUR, self.now) != before:
            self.spent, self.highest = 0, self.tokens
            for router in self.routers:
                router.spendable = router.unreported = 0

    @rule(tokens=st.sampled_from([0, 500, 1000, 2000]))
    def edit_the_quota(self, tokens):
        self.tokens = tokens
        self.highest = max(self.highest, tokens)

    def total(self):
        if self.account is None or self.account.span != span_at(Window.HOUR, self.now):
            return 0
        return self.account.used_units + self.account.held_units

    @invariant()
    def used_and_held_never_exceed_the_quota(self):
        assert self.total() <= self.highest

    @invariant()
    def whatever_is_spent_or_may_be_is_on_the_books(self):
        assert self.spent + sum(router.spendable for router in self.routers) <= self.total()


def run(ledger, effort=EXAMPLES):
    machine = type("Quota", (Quota,), {"ledger": ledger})
    run_state_machine_as_test(machine, settings=effort)


def test_no_history_overshoots_a_quota_or_loses_what_was_spent():
    run(real_ledger)


@pytest.mark.parametrize(
    ("mark", "new"),
    [
        # An expired slice's tokens are free again, though its router may have spent them.
        ("expired-slices-are-used", "lost = 0"),
        # So are a killed session's.
        ("ended-sessions-are-used", "held = 0"),
        # A request sent again counts again.
        ("requests-count-once", "pass"),
    ],
)
def test_a_ledger_with_one_rule_less_is_caught(mark, new):
    with pytest.raises(AssertionError):
        run(changed(real_ledger, mark, new), SEARCH)


def counts_a_return_twice(ledger) -> bool:
    """Whether a return that is repeated after its router restarted makes units free that the new process holds."""
    account, late = None, claim(2, session="old", returned=600)
    for one in (claim(1, session="old", wanted=600), late, claim(1, session="new", wanted=1000), late):
        account, _ = ledger.lease(account, one, Allowed(1000), HOUR, NOW, 30.0)
    _, grant = ledger.lease(account, claim(1, router="other", wanted=1), Allowed(1000), HOUR, NOW, 30.0)
    return bool(grant.granted_units > 0)


def test_a_repeated_return_makes_nothing_free():
    assert not counts_a_return_twice(real_ledger)


def test_that_test_notices_returns_without_a_bound():
    careless = changed(real_ledger, "returns-are-bounded", "returned = claim.returned_units")
    assert counts_a_return_twice(careless)


def claim(sequence=1, *, router="r", session="s", start=HOUR.start_seconds, **units):
    return Claim(router, session, sequence, start, **{f"{name}_units": n for name, n in units.items()})


NOW = HOUR.start_seconds + 100.0


def after(*claims, quota=1000, now=NOW, account=None):
    grant = None
    for one in claims:
        account, grant = lease(account, one, Allowed(quota), span_at(Window.HOUR, now), now, 30.0)
    return account, grant


def test_a_slice_is_debited_renewed_used_and_given_back():
    account, grant = after(claim(1, wanted=300))
    assert (grant.granted_units, grant.free_units, grant.expires_seconds) == (300, 700, NOW + 30)
    account, grant = after(claim(2, used=100, wanted=50), now=NOW + 20, account=account)
    assert (account.used_units, account.held_units, grant.free_units) == (100, 250, 650)
    assert grant.expires_seconds == NOW + 50
    account, grant = after(claim(3, used=50, returned=200), now=NOW + 25, account=account)
    assert (account.used_units, account.held_units, grant.free_units) == (150, 0, 850)


def test_a_request_sent_again_gets_the_same_answer_and_changes_nothing():
    first, grant = after(claim(1, wanted=300))
    second, again = after(claim(1, wanted=300), now=NOW + 3, account=first)
    assert second is first
    assert again == grant
    late, nothing = after(claim(0, wanted=300), account=first)
    assert late is first
    assert nothing.granted_units == 0


def test_an_expired_slice_is_used_for_good_even_when_its_router_comes_back():
    account, _ = after(claim(1, wanted=300))
    account, grant = after(claim(2, returned=300, wanted=100), now=NOW + 31, account=account)
    assert (account.used_units, account.held_units, grant.granted_units) == (300, 100, 100)


def test_a_new_session_finds_what_the_old_one_held_used():
    account, _ = after(claim(7, wanted=300), claim(1, session="t", wanted=10))
    assert (account.used_units, account.held_units) == (300, 10)


def test_a_new_window_begins_empty_and_old_usage_counts_nowhere():
    account, _ = after(claim(1, wanted=900))
    account, grant = after(claim(2, used=900, wanted=1000), now=HOUR.end_seconds, account=account)
    assert (account.used_units, grant.granted_units) == (0, 1000)
    assert grant.span.start_seconds == HOUR.end_seconds


def test_a_clock_that_is_behind_takes_no_window_back():
    account, _ = after(claim(1, wanted=900), now=HOUR.end_seconds)
    account, grant = after(claim(1, router="q", wanted=900), now=HOUR.end_seconds - 1, account=account)
    assert grant.granted_units == 100
    assert grant.span.start_seconds == HOUR.end_seconds


def test_a_raised_quota_is_there_at_once_and_a_lowered_one_grants_nothing():
    account, _ = after(claim(1, wanted=900))
    _, grant = after(claim(2, wanted=900), quota=2000, account=account)
    assert grant.granted_units == 900
    _, grant = after(claim(2, wanted=900), quota=500, account=account)
    assert (grant.granted_units, grant.free_units) == (0, -400)
    _, grant = after(claim(1, wanted=900), quota=0)
    assert grant.granted_units == 0


def test_asking_for_more_than_there_is_writes_nothing():
    account, _ = after(claim(1, wanted=1000))
    for asker in (claim(1, router="q", wanted=5), claim(2, wanted=5)):
        same, grant = after(asker, account=account)
        assert same is account
        assert grant.granted_units == 0


def test_only_so_many_routers_share_a_quota():
    others = tuple(Slice(f"r{n}", "s", 0, NOW + 30, 1, 0) for n in range(real_ledger.MAX_SLICES))
    account, grant = after(claim(1, router="one-more", wanted=5), account=Account(HOUR, 0, others))
    assert grant.granted_units == 0
    assert account.slices == others


def seconds(*moment):
    return int(datetime(*moment, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        (Window.HOUR, (2028, 2, 29, 23), (2028, 3, 1, 0)),
        (Window.DAY, (2028, 2, 29), (2028, 3, 1)),
        (Window.MONTH, (2028, 2, 1), (2028, 3, 1)),
        (Window.MONTH, (2027, 12, 1), (2028, 1, 1)),
    ],
)
def test_windows_are_full_hours_days_and_months_in_utc(window, start, end):
    expected = Span(seconds(*start), seconds(*end))
    for moment in (expected.start_seconds, expected.start_seconds + 1, expected.end_seconds - 0.001):
        assert span_at(window, moment) == expected
    assert span_at(window, expected.end_seconds).start_seconds == expected.end_seconds


def test_a_quota_in_shadow_mode_grants_beyond_itself_and_says_how_far():
    account, grant = lease(None, claim(1, wanted=700), Allowed(1000, refuses=False), HOUR, NOW, 30.0)
    assert (grant.granted_units, grant.free_units) == (700, 300)
    account, grant = lease(
        account, claim(2, used=700, wanted=700), Allowed(1000, refuses=False), HOUR, NOW, 30.0
    )
    assert (grant.granted_units, grant.free_units) == (700, -400)
    assert (account.used_units, account.held_units) == (700, 700)
    _, enforced = lease(account, claim(3, wanted=1), Allowed(1000), HOUR, NOW, 30.0)
    assert enforced.granted_units == 0


def test_what_has_no_quota_is_granted_nothing_in_shadow_mode_either():
    _, grant = lease(None, claim(1, wanted=5), Allowed(0, refuses=False), HOUR, NOW, 30.0)
    assert grant.granted_units == 0
