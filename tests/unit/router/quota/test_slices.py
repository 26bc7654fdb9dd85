"""A router's slice of a quota: with the real ledger over a network that loses answers, and alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.config.quota.allowances import Allowed
from services.config.quota.ledger import Claim, lease
from services.config.quota.windows import Window, span_at
from services.router.quota import slices as real_slices
from services.router.quota.slices import Demand, Granted, QuotaSlice, SliceRules
from tests.fakes.mutants import without

HOUR = span_at(Window.HOUR, 1_800_000_000)
QUOTA = 5000
EXAMPLES = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# A mutant's fault has to be found, not shrunk.
SEARCH = settings(EXAMPLES, max_examples=3000, phases=[Phase.generate])


class Mesh(RuleBasedStateMachine):
    """Two routers' slices and one ledger. Usage is counted in the window in which it was reserved."""

    slices = real_slices

    def __init__(self):
        super().__init__()
        self.rules = self.slices.SliceRules(min_units=200, idle_seconds=5.0)
        self.account = None
        self.now = HOUR.end_seconds - 40.0
        self.lots = itertools.count()
        self.routers = [self.new() for _ in range(2)]
        self.sessions = [0, 0]
        self.sequences = itertools.count(1)
        self.asked = [None, None]
        self.open = [[], []]
        self.spent = 0

    def new(self):
        return self.slices.QuotaSlice(self.rules, self.lots)

    which = st.integers(0, 1)

    @rule(which=which, tokens=st.sampled_from([1, 100, 700]))
    def reserve(self, which, tokens):
        one = self.routers[which]
        if one.fits(tokens, self.now):
            self.open[which].append((one.take(tokens), tokens, span_at(Window.HOUR, self.now)))
        else:
            one.wait_for(tokens)

    @precondition(lambda self: any(self.open))
    @rule(which=which, share=st.sampled_from([0, 0.5, 1]))
    def settle(self, which, share):
        if not self.open[which]:
            return
        lot, tokens, span = self.open[which].pop(0)
        used = int(tokens * share)
        self.routers[which].settle(lot, tokens, used, self.now)
        if span == span_at(Window.HOUR, self.now):
            self.spent += used

    @rule(which=which, stopping=st.sampled_from([False, False, False, True]))
    def ask(self, which, stopping):
        if self.asked[which] is not None:
            return
        one = self.routers[which]
        demand = one.give_back(self.now) if stopping else one.demand(self.now)
        if demand is not None:
            self.asked[which] = Claim(
                f"r{which}", f"s{self.sessions[which]}", next(self.sequences), demand.window_start_seconds,
                demand.used_units, demand.returned_units, demand.wanted_units,
            )  # fmt: skip

    @rule(which=which, answered=st.sampled_from([True, True, False]))
    def deliver(self, which, answered):
        """Deliver requests without an answer again."""
        claim = self.asked[which]
        if claim is None:
            return
        self.account, grant = lease(
            self.account, claim, Allowed(QUOTA), span_at(Window.HOUR, self.now), self.now, 30.0
        )
        if answered:
            self.asked[which] = None
            span = grant.span
            granted = Granted(
                span.start_seconds, span.end_seconds, grant.granted_units, grant.expires_seconds
            )
            self.routers[which].put(granted, claim.wanted_units, self.now)

    @rule(which=which)
    def kill(self, which):
        """Kill a router: the tokens of its requests may have been used, since the model server had them."""
        span = span_at(Window.HOUR, self.now)
        self.spent += sum(tokens for _, tokens, of in self.open[which] if of == span)
        self.routers[which], self.asked[which], self.open[which] = self.new(), None, []
        self.sessions[which] += 1

    @rule(seconds=st.sampled_from([0.5, 6.0, 6.0, 12.0, 31.0]))
    def pass_time(self, seconds):
        before = span_at(Window.HOUR, self.now)
        self.now += seconds
        if span_at(Window.HOUR, self.now) != before:
            self.spent = 0

    @invariant()
    def what_is_spent_or_may_be_is_on_the_books(self):
        span = span_at(Window.HOUR, self.now)
        current = self.account is not None and self.account.span == span
        total = self.account.used_units + self.account.held_units if current else 0
        may_be_spent = self.spent
        for one, requests in zip(self.routers, self.open, strict=True):
            one.is_low(self.now)
            may_be_spent += max(0, one.available_units)
            may_be_spent += sum(tokens for _, tokens, of in requests if of == span)
        assert may_be_spent <= total <= QUOTA


def run(slices, effort=EXAMPLES):
    machine = type("Mesh", (Mesh,), {"slices": slices})
    run_state_machine_as_test(machine, settings=effort)


def test_no_history_lets_routers_spend_what_is_not_on_the_books():
    run(real_slices)


@pytest.mark.parametrize(
    "rule",
    [
        # Tokens that are given back are spent here as well.
        "given-back-is-gone",
        # Tokens live on in the next window.
        "window-ends",
    ],
)
def test_a_slice_with_one_rule_less_is_caught(rule):
    with pytest.raises(AssertionError):
        run(without(real_slices, rule), SEARCH)


def brings_tokens_of_its_window_into_the_next(slices):
    one = slices.QuotaSlice(slices.SliceRules(min_units=100), itertools.count())
    one.put(slices.Granted(HOUR.start_seconds, HOUR.end_seconds, 700, HOUR.end_seconds + 20), 700, NOW)
    lot = one.take(600)
    later = HOUR.end_seconds + 5.0
    one.put(slices.Granted(HOUR.end_seconds, HOUR.end_seconds + 3600, 50, later + 30), 50, later)
    one.settle(lot, 600, 0, later)
    return one.available_units != 50


def test_a_request_that_outlives_its_window_brings_nothing_into_the_next():
    assert not brings_tokens_of_its_window_into_the_next(real_slices)
    assert brings_tokens_of_its_window_into_the_next(without(real_slices, "new-lot"))


NOW = HOUR.start_seconds + 100.0


def holding(tokens, *, rules=None, expires=NOW + 30):
    one = QuotaSlice(rules or SliceRules(min_units=100), itertools.count())
    one.put(Granted(HOUR.start_seconds, HOUR.end_seconds, tokens, expires), tokens, NOW)
    return one


def test_the_first_request_asks_for_itself_and_a_little_more():
    one = QuotaSlice(SliceRules(min_units=100), itertools.count())
    assert one.demand(NOW) is None
    assert not one.fits(40, NOW)
    one.wait_for(40)
    assert one.demand(NOW) == Demand(0, 0, 0, 140)


def test_demand_follows_the_rate_of_the_spend():
    one = holding(100_000)
    now = NOW
    for _ in range(100):
        one.settle(one.take(50), 50, 50, now)
        now += 0.05
        one.fits(50, now)
    # 1,000 tokens a second for five seconds, most of which the rate has seen by now; five seconds ahead.
    told = one.demand(now)
    assert told.wanted_units == 0
    assert told.used_units == 5000
    assert 2500 < one.available_units < 5000


def test_renewals_come_ahead_of_need():
    one = holding(1000, rules=SliceRules(min_units=1000))
    one.fits(300, NOW)
    one.take(300)
    assert not one.is_low(NOW)
    one.take(300)
    assert one.is_low(NOW)
    assert one.available_units == 400
    assert one.demand(NOW).wanted_units == 600


def test_a_slice_is_renewed_before_it_ends_and_told_of_nothing_otherwise():
    one = holding(150)
    one.fits(10, NOW)
    assert one.demand(NOW + 5) is None
    assert one.demand(NOW + 11) == Demand(HOUR.start_seconds, 0, 0, 0)


def test_an_idle_tenant_gives_everything_back_and_is_forgotten():
    one = holding(150, expires=NOW + 60)
    one.fits(10, NOW)
    assert one.demand(NOW + 31) == Demand(HOUR.start_seconds, 0, 150, 0)
    assert one.is_idle(NOW + 31)


def test_what_is_held_may_be_spent_until_it_expires_and_not_after():
    one = holding(150)
    assert one.fits(150, NOW + 29.9)
    assert not one.fits(1, NOW + 30)


def test_a_slice_that_expired_is_told_of_once():
    one = holding(150)
    one.fits(50, NOW)
    lot = one.take(50)
    one.is_low(NOW + 31)
    one.settle(lot, 50, 20, NOW + 31)
    told = one.demand(NOW + 31)
    assert (told.used_units, told.returned_units) == (50, 100)
    assert one.demand(NOW + 31) is None


def test_at_a_windows_end_everything_is_gone():
    one = holding(150, expires=HOUR.end_seconds + 20)
    assert not one.fits(1, HOUR.end_seconds)
    assert one.demand(HOUR.end_seconds).returned_units == 0


def test_an_answer_with_less_than_was_wanted_is_believed_for_a_while():
    one = holding(0)
    one.fits(10, NOW)
    one.put(Granted(HOUR.start_seconds, HOUR.end_seconds, 5, NOW + 30), 10, NOW)
    assert one.is_dry(NOW + 0.9)
    assert not one.is_low(NOW + 0.9)
    assert one.is_low(NOW + 1.0)


def test_use_beyond_a_reservation_is_a_debt_that_the_next_grant_pays():
    one = holding(100)
    one.fits(100, NOW)
    one.settle(one.take(100), 100, 130, NOW)
    assert one.available_units == -30
    told = one.demand(NOW)
    assert told.used_units == 100
    one.put(Granted(HOUR.start_seconds, HOUR.end_seconds, 200, NOW + 30), 200, NOW)
    assert one.available_units == 170
    assert one.give_back(NOW) == Demand(HOUR.start_seconds, 30, 170, 0)
