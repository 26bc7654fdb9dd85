"""The audit writer's room and turns are shared by tenants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.audit import turns, writer
from services.common.audit.entry import AuditEntry, EntryKind
from services.common.audit.turns import TenantTurns
from services.common.audit.writer import AuditWriter
from services.common.rpc.channel import open_channel
from tests.fakes.mutants import changed, without

STRICT_BYTES = 2_000


def order_of(made: TenantTurns, added: list[tuple[str, int]]) -> list[int]:
    for tenant_uid, sequence in added:
        made.add(tenant_uid, sequence)
    taken = []
    while made:
        taken.append(made.take())
    return taken


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_each_tenants_entries_keep_their_order(tenants):
    added = list(zip(tenants, range(len(tenants)), strict=True))
    taken = order_of(TenantTurns(), added)
    assert sorted(taken) == list(range(len(tenants)))
    for tenant in "abc":
        own = [sequence for one, sequence in added if one == tenant]
        assert [sequence for sequence in taken if sequence in own] == own


MANY_AND_ONE = [("greedy", number) for number in range(100)] + [("modest", 100)]


def test_one_entry_waits_for_one_of_each_other_tenant():
    assert order_of(TenantTurns(), MANY_AND_ONE).index(100) == 1


def test_that_test_notices_entries_in_their_order_of_arrival():
    assert order_of(without(turns, "entries-in-turn").TenantTurns(), MANY_AND_ONE).index(100) == 100


def test_what_is_sent_again_comes_first():
    made = TenantTurns()
    made.add("a", 3)
    made.add_first("a", [1, 2])
    assert order_of(made, []) == [1, 2, 3]


async def kept_of_another(writer_class: type[AuditWriter]) -> list[bool]:
    """Whether a tenant's entries are kept while the service is slow and another has filled what it may."""
    async with open_channel("unix:/nobody") as channel:
        made = writer_class(channel, "w")
        large = AuditEntry("greedy", EntryKind.ADMIT, {}, b"x" * (1 << 20))
        while made.append_soon(large):
            pass
        strict = AuditEntry("modest", EntryKind.ADMIT, {}, b"x" * STRICT_BYTES)
        return [made.append_soon(strict) for _ in range(1000)]


async def test_one_tenants_long_prompts_cost_no_other_its_entries():
    assert all(await kept_of_another(AuditWriter))


async def test_that_test_notices_room_without_shares():
    whole = changed(writer, "a-share-each", "return size_bytes <= left_bytes and left_entries > 0")
    assert not all(await kept_of_another(whole.AuditWriter))
