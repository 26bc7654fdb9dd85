from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.router.pool.residency import AdapterLedger, Residency

IDS = st.integers(1, 5)


def test_the_first_sends_and_those_after_its_answer_do_not():
    ledger = AdapterLedger(capacity=2)
    assert ledger.use(1)
    assert ledger.state(1) is Residency.LOADING
    ledger.loaded(1, ledger.epoch)
    assert not ledger.use(1)


def test_a_sender_that_fails_leaves_the_next_one_to_send():
    ledger = AdapterLedger(capacity=2)
    ledger.use(1)
    ledger.load_failed(1, ledger.epoch)
    ledger.release(1, ledger.epoch)
    assert ledger.use(1)


def test_a_miss_of_an_older_load_does_not_undo_a_newer_one():
    ledger = AdapterLedger(capacity=2)
    ledger.use(1)
    ledger.loaded(1, ledger.epoch)
    old = ledger.load_number(1)
    ledger.missed(1, old, ledger.epoch)
    assert ledger.resend(1)
    ledger.loaded(1, ledger.epoch)
    ledger.missed(1, old, ledger.epoch)
    assert ledger.state(1) is Residency.RESIDENT


def test_what_is_said_of_an_older_epoch_changes_nothing():
    ledger = AdapterLedger(capacity=2)
    ledger.use(1)
    before = ledger.epoch
    ledger.reset()
    ledger.loaded(1, before)
    ledger.release(1, before)
    assert ledger.state(1) is Residency.ABSENT
    assert ledger.use(1)
    ledger.load_failed(1, before)
    assert ledger.state(1) is Residency.LOADING


def test_adapters_in_use_leave_no_room_for_another():
    ledger = AdapterLedger(capacity=1)
    ledger.use(1)
    assert ledger.has_room(1)
    assert not ledger.has_room(2)
    ledger.loaded(1, 0)
    ledger.release(1, 0)
    assert ledger.has_room(2)


class LedgerAgainstServer(RuleBasedStateMachine):
    """The ledger with a server's LRU that pins adapters in use: an estimate may be wrong, but nothing leaks."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = AdapterLedger(capacity=2)
        self.active: list[tuple[int, bool, int]] = []  # (adapter, sends, epoch)

    @rule(lora_id=IDS)
    def acquire(self, lora_id):
        if self.ledger.state(lora_id) is not Residency.LOADING and self.ledger.has_room(lora_id):
            self.active.append((lora_id, self.ledger.use(lora_id), self.ledger.epoch))

    @precondition(lambda self: self.active)
    @rule(place=st.integers(0, 50), succeeds=st.booleans())
    def finish(self, place, succeeds):
        lora_id, sends, epoch = self.active.pop(place % len(self.active))
        if sends and succeeds:
            self.ledger.loaded(lora_id, epoch)
        elif sends:
            self.ledger.load_failed(lora_id, epoch)
        self.ledger.release(lora_id, epoch)

    @rule()
    def restart(self):
        self.ledger.reset()

    @invariant()
    def one_sender_each_and_no_more_in_use_than_fit(self):
        current = [(a, sends) for a, sends, epoch in self.active if epoch == self.ledger.epoch]
        senders = [lora_id for lora_id, sends in current if sends]
        assert len(senders) == len(set(senders))
        assert len({lora_id for lora_id, _ in current}) <= self.ledger.capacity
        assert set(self.ledger._users) == {lora_id for lora_id, _ in current}
        assert len(self.ledger._resident) <= self.ledger.capacity


LedgerAgainstServer.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedgerAgainstServer = LedgerAgainstServer.TestCase
