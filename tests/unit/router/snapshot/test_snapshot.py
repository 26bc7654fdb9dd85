from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import DirectoryArtifactStore
from services.common.request_sizes import MAX_INPUT_BYTES
from services.router.snapshot.assembly import Assembled, AssemblyError, SnapshotAssembler, apply_to
from services.router.snapshot.compiler import SnapshotRefusedError, compile_snapshot
from services.router.snapshot.model import Durability, Limits, ParameterRules, Snapshot, Tier
from services.router.text.text_model import TextModelLoader
from tests.fakes.router_config import BASE_MODEL, POOL, ConfigWorld, tiny_rendition
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json


@pytest.fixture
def world(tmp_path) -> ConfigWorld:
    artifacts = DirectoryArtifactStore(tmp_path)
    made = ConfigWorld(artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode()))
    made.base_model()
    made.pool(["a:1", "b:1", "a:1"])
    return made


def compiled(world: ConfigWorld) -> Snapshot:
    return compile_snapshot(5, world.resources, TextModelLoader(world.artifacts).load).snapshot


def refused(world: ConfigWorld) -> list[str]:
    with pytest.raises(SnapshotRefusedError) as error:
        compiled(world)
    return error.value.reasons


def alias(name: str = "chat", **fields) -> tenant_pb2.ModelAlias:
    return tenant_pb2.ModelAlias(alias=name, base_model=BASE_MODEL, **fields)


def test_unset_fields_mean_what_the_contract_says(world):
    uid = world.tenant("acme", 7)
    tenant = compiled(world).tenants[uid]
    assert tenant.active
    assert tenant.limits == Limits()
    assert tenant.parameters == ParameterRules()
    assert tenant.durability is Durability.BLOCKING_STRICT
    assert tenant.tier is Tier.ISOLATED
    assert tenant.serve_stale
    assert (tenant.default_timeout_seconds, tenant.max_timeout_seconds) == (60.0, 600.0)
    assert (tenant.weight, tenant.default_alias) == (100, "chat")
    assert tenant.targets["chat"].pool is not None
    assert tenant.targets["chat"].pool.targets == ("a:1", "b:1")


def test_set_fields_stand_even_at_zero(world):
    uid = world.tenant(
        "acme",
        7,
        [alias("a"), alias("b", system_prompt="")],
        default_model="b",
        system_prompt="Be brief.",
        limits=tenant_pb2.Limits(requests_per_second=0, tokens_per_minute=0, input_tokens=5),
        audit_policy=tenant_pb2.AUDIT_POLICY_BATCH,
        staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE,
        deadlines=tenant_pb2.Deadlines(max_timeout=Duration(seconds=10)),
        parameter_defaults=tenant_pb2.ParameterDefaults(temperature=0.5),
        parameter_bounds=tenant_pb2.ParameterBounds(max_output_tokens=9),
    )
    tenant = compiled(world).tenants[uid]
    assert (tenant.limits.requests_per_second, tenant.limits.tokens_per_minute) == (0.0, 0)
    assert tenant.limits.input_tokens == 5
    assert tenant.durability is Durability.BATCH
    assert not tenant.serve_stale
    assert (tenant.default_timeout_seconds, tenant.max_timeout_seconds) == (10.0, 10.0)
    assert tenant.default_alias == "b"
    assert tenant.targets["a"].system_prompt == "Be brief."
    assert tenant.targets["b"].system_prompt == ""
    assert (tenant.parameters.default_temperature, tenant.parameters.max_output_tokens) == (0.5, 9)


def test_more_text_than_can_be_recorded_is_what_can_be_and_the_log_says_so(world, caplog):
    most = world.tenant("most", 8, limits=tenant_pb2.Limits(input_bytes=MAX_INPUT_BYTES))
    old = world.tenant("old", 7, limits=tenant_pb2.Limits(input_bytes=64 << 20))
    tenants = compiled(world).tenants
    assert tenants[most].limits.input_bytes == tenants[old].limits.input_bytes == MAX_INPUT_BYTES
    (line,) = caplog.messages
    assert line == f"tenant {old}: limits.input_bytes is 67108864; 786432 is in force, the most that works"


def test_an_alias_is_bound_to_its_adapter_in_the_pools_form(world):
    uid = world.tenant("acme", 7, [alias(adapter="tone")])
    lora_id = world.adapter(uid, "tone", 1, tiny_rendition(1))
    target = compiled(world).tenants[uid].targets["chat"]
    assert target.binding is not None
    assert target.binding.rendition.lora_id == lora_id
    assert "k" * 32 not in repr(target.binding.version)


def test_an_adapter_made_for_another_engine_is_not_bound(world):
    uid = world.tenant("acme", 7, [alias(adapter="tone")])
    world.adapter(uid, "tone", 1, tiny_rendition(1))
    pool = world.resources[POOL].pool
    pool.engine_sha256 = "f" * 64
    target = compiled(world).tenants[uid].targets["chat"]
    assert (target.adapter, target.binding) == ("tone", None)


def test_a_dedicated_pool_serves_its_tenant_only_and_a_dedicated_tenant_no_other_pool(world):
    dedicated = tenant_pb2.ISOLATION_TIER_DEDICATED
    owner = world.tenant("owner", 1, isolation_tier=dedicated, pool="pools/own")
    homeless = world.tenant("homeless", 2, isolation_tier=dedicated)
    intruder = world.tenant("intruder", 3, pool="pools/own")
    plain = world.tenant("plain", 4)
    world.pool(["c:1"], "pools/own", dedicated_to="tenants/owner")
    tenants = compiled(world).tenants

    def pool_of(uid: str) -> str | None:
        pool = tenants[uid].targets["chat"].pool
        return pool.name if pool else None

    assert pool_of(owner) == "pools/own"
    assert pool_of(homeless) is None
    assert pool_of(intruder) is None
    assert pool_of(plain) == POOL


def test_a_pool_dedicated_to_nobody_known_serves_nobody(world):
    del world.resources[POOL]
    world.pool(["c:1"], dedicated_to="tenants/gone")
    uid = world.tenant("plain", 4)
    assert compiled(world).tenants[uid].targets["chat"].pool is None


def test_a_shared_tenant_has_no_adapters(world):
    uid = world.tenant("acme", 7, isolation_tier=tenant_pb2.ISOLATION_TIER_SHARED)
    world.adapter(uid, "tone", 1, tiny_rendition(1))
    assert compiled(world).tenants[uid].adapters == {}


def test_what_does_not_fit_together_is_refused_whole_with_every_reason(world):
    first = world.tenant("first", 7, [tenant_pb2.ModelAlias(alias="x", base_model="models/none")])
    world.tenant("second", 7)
    third = world.tenant("third", 8, [alias(adapter="none")])
    world.adapter(third, "stolen", 1, tiny_rendition(1), lora_id=(9 << 40) | 1)
    world.resources["news/1"] = pb.Resource(key="news/1")
    reasons = refused(world)
    assert len(reasons) == 5
    for part in (first, "uid-second", "alias names an adapter", "lora id of another tenant", "news/1"):
        assert any(part in reason for reason in reasons), part


def test_one_lora_id_with_two_weights_is_refused(world):
    uid = world.tenant("acme", 7)
    world.adapter(uid, "a", 1, tiny_rendition(1))
    world.adapter(uid, "b", 1, tiny_rendition(2))
    assert refused(world) == [f"adapters/{uid}/b: one lora id, two weights"]


def test_a_missing_tokeniser_is_named_by_digest_and_refuses_nothing_else(world):
    world.tokeniser_sha256 = "0" * 64
    world.base_model()
    uid = world.tenant("acme", 7)
    snapshot = compiled(world)
    assert "000000000000" in snapshot.unusable_models[BASE_MODEL]
    assert not snapshot.tenants[uid].targets["chat"].base_model.usable


def piece(
    chunk: int, *, last: bool = False, nonce: str = "n", keys: tuple[str, ...] = ()
) -> pb.SnapshotChunk:
    return pb.SnapshotChunk(
        nonce=nonce,
        revision=5,
        kind=pb.SNAPSHOT_KIND_FULL,
        chunk=chunk,
        last=last,
        resources=[pb.Resource(key=key) for key in keys],
    )


def test_nothing_applies_before_the_last_piece():
    assembler = SnapshotAssembler()
    assert assembler.add(piece(0, keys=("a",))) is None
    whole = assembler.add(piece(1, last=True, keys=("b",)))
    assert whole is not None
    assert sorted(whole.resources) == ["a", "b"]


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(1, last=True)],
        [piece(0), piece(2, last=True)],
        [piece(0), piece(1, nonce="other", last=True)],
        [piece(0, keys=("a",)), piece(1, last=True, keys=("a",))],
    ],
)
def test_pieces_that_make_no_whole_are_refused(pieces):
    assembler = SnapshotAssembler()
    for one in pieces[:-1]:
        assert assembler.add(one) is None
    with pytest.raises(AssemblyError):
        assembler.add(pieces[-1])
    assert assembler.add(piece(0, last=True)) is not None


def test_a_new_first_piece_starts_over():
    assembler = SnapshotAssembler()
    assembler.add(piece(0, keys=("old",)))
    whole = assembler.add(piece(0, nonce="m", last=True, keys=("new",)))
    assert whole is not None
    assert list(whole.resources) == ["new"]


def test_a_delta_puts_and_removes_on_the_revision_it_names():
    held = {"a": pb.Resource(key="a", mod_revision=1), "b": pb.Resource(key="b")}
    put = {"a": pb.Resource(key="a", mod_revision=2)}
    delta = Assembled("n", 6, pb.SNAPSHOT_KIND_DELTA, 5, put, frozenset({"b"}))
    after = apply_to(held, 5, delta)
    assert {key: resource.mod_revision for key, resource in after.items()} == {"a": 2}
    with pytest.raises(AssemblyError):
        apply_to(held, 4, delta)
    with pytest.raises(AssemblyError):
        apply_to(held, 5, Assembled("n", 6, pb.SNAPSHOT_KIND_UNSPECIFIED, 0, {}, frozenset()))
