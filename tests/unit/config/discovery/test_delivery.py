"""Snapshots as messages, and a router's stream: whole states, deltas, the newest one, nothing twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2, stored_pb2, tenant_pb2

from services.common.errors import DeadlineExceededError
from services.config.discovery import servicer as discovery_servicer
from services.config.discovery.messages import CHUNK_BYTES, delta, full
from services.config.discovery.servicer import DiscoveryServicer
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Stored
from services.config.metrics import ConfigMetrics
from services.config.state.config_state import ConfigState, ConfigStateBuilder
from services.config.state.current_state import CurrentState
from services.config.state.sealed_versions import seal_in_force
from services.config.state.sealing import SealError, TenantKeys
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.discovery_stream import Stream
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without

KEYS = TenantKeys(b"r" * 32)


def tenant_value(uid: str, prompt: str = "") -> bytes:
    key, wrapped = KEYS.create(uid)
    stored = stored_pb2.StoredTenant(tenant_id=uid, tenant_uid=uid, wrapped_key=wrapped)
    seal_in_force(stored, tenant_pb2.TenantConfig(system_prompt=prompt), key)
    return stored.SerializeToString()


def state_of(values: dict[str, bytes], revision: int, before: ConfigState | None = None) -> ConfigState:
    items = {key: Stored(value, revision) for key, value in values.items()}
    return ConfigStateBuilder(KEYS).full(items, revision, before or ConfigState())


def test_forty_megabytes_come_in_pieces_that_fit_any_limit():
    pool = pool_pb2.Pool(server_model="x" * 4_000)
    values = {etcd_keys.pool_key(f"p{n:05d}"): pool.SerializeToString() for n in range(10_000)}
    pieces = [message.chunk for message in full(state_of(values, 7), "n")]
    assert sum(piece.ByteSize() for piece in pieces) > 40_000_000
    assert all(piece.ByteSize() <= CHUNK_BYTES + 4_200 for piece in pieces)
    assert [piece.chunk for piece in pieces] == list(range(len(pieces)))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    keys = [resource.key for piece in pieces for resource in piece.resources]
    assert keys == [etcd_keys.relative(key) for key in values]


def chunk_of(messages):
    (only,) = list(messages)
    return only.chunk


def test_a_delta_holds_what_changed_and_what_is_gone():
    one = pool_pb2.Pool(server_model="one").SerializeToString()
    first = state_of({etcd_keys.pool_key("a"): one, etcd_keys.pool_key("b"): one}, 5)
    builder = ConfigStateBuilder(KEYS)
    items = {etcd_keys.pool_key("b"): Stored(one, 5), etcd_keys.pool_key("c"): Stored(one, 6)}
    piece = chunk_of(delta(first, builder.full(items, 6, first), "n"))
    assert [resource.key for resource in piece.resources] == ["pools/c"]
    assert (list(piece.removed), piece.base_revision, piece.revision) == (["pools/a"], 5, 6)


def test_what_a_tenant_owns_comes_and_goes_with_it():
    key = stored_pb2.StoredCredential(key=credential_pb2.Key(name="tenants/u/keys/k"), tenant_uid="u")
    values = {etcd_keys.credential_key("k"): key.SerializeToString()}
    without = state_of(values, 5)
    assert not chunk_of(full(without, "n")).resources
    values[etcd_keys.tenant_key("u")] = tenant_value("u")
    items = {name: Stored(value, 5 if "credentials" in name else 6) for name, value in values.items()}
    with_tenant = ConfigStateBuilder(KEYS).full(items, 6, without)
    came = chunk_of(delta(without, with_tenant, "n"))
    assert {resource.key for resource in came.resources} == {"credentials/k", "tenants/u"}
    went = chunk_of(delta(with_tenant, without, "n"))
    assert set(went.removed) == {"credentials/k", "tenants/u"}
    assert not went.resources


def test_a_value_that_does_not_open_keeps_what_it_held_before():
    good = state_of({etcd_keys.tenant_key("u"): tenant_value("u")}, 5)
    stored = stored_pb2.StoredTenant.FromString(tenant_value("u"))
    stored.sealed_config = stored.sealed_config[:-1] + b"\x00"
    items = {etcd_keys.tenant_key("u"): Stored(stored.SerializeToString(), 6)}
    after = ConfigStateBuilder(KEYS).full(items, 6, good)
    assert after.damaged == {"tenants/u"}
    assert after.tenant("u") is good.tenant("u")


def test_another_root_key_stops_the_service_instead_of_taking_every_tenant_away():
    items = {
        etcd_keys.tenant_key("u"): Stored(tenant_value("u"), 5),
        etcd_keys.pool_key("p"): Stored(pool_pb2.Pool().SerializeToString(), 5),
    }
    current = CurrentState(ConfigStateBuilder(TenantKeys(b"x" * 32)), ManualClock())
    with pytest.raises(SealError):
        current.replace(items, 5)
    assert not current.listed.is_set()
    CurrentState(ConfigStateBuilder(KEYS), ManualClock()).replace(items, 5)


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


@pytest.fixture
async def stream(plane):
    metrics = ConfigMetrics(plane.current)
    stream = Stream(DiscoveryServicer(plane.current, metrics, plane.routers))
    stream.metrics, stream.routers = metrics, plane.routers
    await stream.hello()
    yield stream
    await stream.answers.aclose()


async def test_a_stream_without_a_hello_is_ended(plane, monkeypatch):
    monkeypatch.setattr(discovery_servicer, "HELLO_SECONDS", 0.05)
    mute = Stream(DiscoveryServicer(plane.current, plane.metrics, plane.routers))
    with pytest.raises(DeadlineExceededError):
        await mute.next("heartbeat")
    assert plane.routers.routers() == []


async def test_a_goodbye_ends_the_stream_and_the_router_is_forgotten(plane, stream):
    await stream.ack(await stream.next("chunk"))
    await stream.next("heartbeat")
    assert [router.name for router in stream.routers.routers()] == ["r1"]
    await stream.goodbye()
    await stream.ends()
    assert stream.routers.routers() == []


async def test_a_stream_that_ends_without_a_goodbye_leaves_its_router_known(plane, stream):
    await stream.ack(await stream.next("chunk"))
    await stream.answers.aclose()
    assert [router.name for router in stream.routers.routers()] == ["r1"]


async def test_a_slow_router_gets_the_newest_state_and_nothing_between(plane, stream):
    first = await stream.next("chunk")
    assert first.kind == pb.SNAPSHOT_KIND_FULL
    for name in ("acme", "globex", "initech"):
        await plane.new_tenant(name)
    for _ in range(3):  # it has not answered yet, so no second snapshot is sent
        await stream.next("heartbeat")
    await stream.ack(first)
    second = await stream.next("chunk")
    assert (second.kind, second.base_revision) == (pb.SNAPSHOT_KIND_DELTA, first.revision)
    assert {r.tenant.name for r in second.resources} == {
        "tenants/acme",
        "tenants/globex",
        "tenants/initech",
    }


async def sent_over_a_slow_line(plane, module, monkeypatch):
    """A router that takes every piece of a snapshot 20 s after the one before, and answers 20 s after the last."""
    await plane.new_tenant("acme")
    await plane.new_tenant("globex")
    monkeypatch.setattr("services.config.discovery.messages.CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 20.0 * stream.taken))
    stream = Stream(module.DiscoveryServicer(plane.current, plane.metrics, plane.routers))
    stream.taken = 0
    await stream.hello()
    kinds = []
    async for message in stream.answers:
        kinds.append(message.WhichOneof("message"))
        if kinds[-1] == "chunk":
            stream.taken += 1
            if message.chunk.last:
                break
    for _ in range(
        3
    ):  # one behind the last piece; with the next ones it is looked whether an answer is overdue
        await stream.next("heartbeat")
    await stream.answers.aclose()
    return kinds


async def test_a_large_snapshot_on_a_slow_line_is_waited_for_and_heartbeats_come_between(plane, monkeypatch):
    kinds = await sent_over_a_slow_line(plane, discovery_servicer, monkeypatch)
    assert kinds.count("chunk") >= 3
    assert "chunk chunk" not in " ".join(kinds)


async def test_that_test_notices_an_answer_that_is_due_before_the_snapshot_was_sent(plane, monkeypatch):
    hasty = without(discovery_servicer, "answer-due-after-last-piece")
    with pytest.raises(DeadlineExceededError):
        await sent_over_a_slow_line(plane, hasty, monkeypatch)


async def test_a_refused_snapshot_is_not_sent_again_while_only_revisions_move(plane, stream):
    first = await stream.next("chunk")
    await stream.nack(first)
    for number in range(3):
        await stream.next("heartbeat")
        plane.store.put({"/elsewhere": b"%d" % number})
        plane.current.apply([], plane.store._revision)
    await stream.next("heartbeat")
    await plane.new_tenant("acme")
    again = await stream.next("chunk")
    assert (again.kind, again.base_revision) == (pb.SNAPSHOT_KIND_FULL, 0)


async def test_an_answer_to_an_older_snapshot_means_nothing(plane, stream):
    first = await stream.next("chunk")
    stale = pb.SnapshotChunk(nonce="0", revision=first.revision)
    await stream.nack(stale)
    await stream.ack(first)
    await plane.new_tenant("acme")
    assert (await stream.next("chunk")).kind == pb.SNAPSHOT_KIND_DELTA


async def test_heartbeats_tell_of_etcd(plane, stream):
    await stream.next("chunk")
    plane.current.heard()
    plane.clock.advance(1.5)
    beat = await stream.next("heartbeat")
    assert (beat.etcd_connected, beat.etcd_silence_ms) == (True, 1500)
    plane.current.lost()
    assert not (await stream.next("heartbeat")).etcd_connected


async def test_reported_outcomes_are_counted_under_known_names(plane, stream):
    await stream.next("chunk")
    report = pb.OutcomeReport(
        counts=[
            pb.OutcomeCount(tenant_uid="u", config_version=1, outcome=name, requests=2)
            for name in ("ok", "RATE_LIMITED", "made up")
        ]
    )
    await stream.requests.put(pb.StreamSnapshotsRequest(outcomes=report))
    await stream.next("heartbeat")
    await stream.next("heartbeat")
    counted = {
        sample.labels["outcome"]: sample.value
        for sample in next(iter(stream.metrics.outcomes.collect())).samples
        if sample.name.endswith("_total")
    }
    assert counted == {"ok": 2, "RATE_LIMITED": 2, "other": 2}
