"""Adapters through the whole mesh: what the server forgets, the router sends again, and no caller notices."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from tests.fakes.peft_adapters import random_adapter
from tests.integration.mesh_access import bearer, question
from tests.integration.triton_process import TwinClient

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]


def crowd_out(target, card, count):
    """Fill a server's cache with other adapters, behind the router's back."""
    with closing(TwinClient(target)) as client:
        for task_id in range(2**61, 2**61 + count):
            reply = client.generate(PROMPT, 1, **random_adapter(card, task_id, seed=task_id - 2**61))
            assert reply.error is None


async def sent_and_missed(mesh):
    names = ("tenantry_adapters_sent_total", "tenantry_adapter_misses_total")
    return [await mesh.metric("router", name) for name in names]


async def test_an_evicted_adapter_is_sent_once_more_and_the_caller_sees_an_answer(mesh, prepared_model):
    tenant = mesh.tenants[1]

    async def ask():
        return await mesh.access.inference.Generate(
            question("What is the sea?"), metadata=bearer(mesh.key(tenant)), timeout=60
        )

    before = await ask()
    sent, missed = await sent_and_missed(mesh)
    assert (await ask()).text == before.text
    assert await sent_and_missed(mesh) == [sent, missed], "a resident adapter was sent again"
    await asyncio.to_thread(crowd_out, mesh.local.triton_target, prepared_model.card, 8)
    after = await ask()
    assert (after.text, after.provenance.adapter) == (before.text, mesh.adapter_of(tenant))
    assert await sent_and_missed(mesh) == [sent + 1, missed + 1]
    assert (await ask()).text == before.text
    assert await sent_and_missed(mesh) == [sent + 1, missed + 1]
