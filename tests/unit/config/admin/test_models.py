"""Base models: only those that routers can use are registered, and only unused ones are deleted."""

from __future__ import annotations

import json

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2, tenant_pb2

from services.common.errors import (
    AbortedError,
    Error,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    Reason,
)
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.etcd import keys as etcd_keys
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.peft_files import peft_files
from tests.fakes.tiny_text import tiny_tokeniser_json

SPARE = "models/spare"


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_model("spare")
    return plane


def tokeniser(**changes):
    return json.dumps(json.loads(tiny_tokeniser_json()) | changes).encode()


@pytest.mark.parametrize(
    ("field", "data", "says"),
    [
        ("tokenizer_sha256", b"{}", "not a readable tokenizer.json"),
        ("tokenizer_sha256", b"\xff", "not a readable tokenizer.json"),
        ("tokenizer_sha256", tokeniser(normalizer={"type": "NFC"}), "rewrite their input"),
        ("tokenizer_sha256", tokeniser(decoder={"type": "WordPiece"}), "byte-level BPE"),
        ("chat_template_sha256", b"{% for %}", "does not compile"),
        ("chat_template_sha256", b"{{ bos_token }}", "asks for bos_token"),
        ("chat_template_sha256", b"{{ raise_exception('no') }}", "refuses this conversation"),
        ("chat_template_sha256", b"\xff\xfe", "is not UTF-8"),
    ],
)
async def test_what_routers_cannot_use_is_not_registered(plane, field, data, says):
    model = await plane.call("GetBaseModel", pb.GetBaseModelRequest(name=SPARE))
    setattr(model, field, plane.artifacts.put(data))
    request = pb.CreateBaseModelRequest(base_model_id="bad", base_model=model)
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("CreateBaseModel", request)
    assert [violation.field for violation in refused.value.violations] == [f"base_model.{field}"]
    assert says in refused.value.violations[0].description
    assert plane.current.state.model("models/bad") is None


async def test_every_artifact_that_is_missing_is_named(plane):
    model = pool_pb2.BaseModel()
    model.CopyFrom(plane.current.state.model(SPARE).model)
    model.tokenizer_sha256, model.chat_template_sha256 = "0" * 64, "1" * 64
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("CreateBaseModel", pb.CreateBaseModelRequest(base_model_id="bad", base_model=model))
    named = {violation.field for violation in refused.value.violations}
    assert named == {"base_model.tokenizer_sha256", "base_model.chat_template_sha256"}


async def test_a_tokeniser_fits_the_vocabulary(plane):
    model = pool_pb2.BaseModel()
    model.CopyFrom(plane.current.state.model(SPARE).model)
    model.architecture.vocabulary = 100
    with pytest.raises(InvalidArgumentError, match="not below 100"):
        await plane.call("CreateBaseModel", pb.CreateBaseModelRequest(base_model_id="bad", base_model=model))


async def delete(plane, name=SPARE, caller=None, **fields):
    return await plane.call("DeleteBaseModel", pb.DeleteBaseModelRequest(name=name, **fields), caller)


async def test_one_that_nobody_uses_goes_with_an_intent_and_may_come_back(plane):
    told = len(plane.entries)
    deleted = await delete(plane, reason="retired")
    assert deleted.revision == plane.current.state.revision
    assert plane.current.state.model(SPARE) is None
    assert [entry.meta["method"] for entry in plane.entries[told:] if "method" in entry.meta] == [
        "DeleteBaseModel"
    ]
    with pytest.raises(NotFoundError):
        await delete(plane)
    await plane.new_model("spare")
    assert plane.current.state.model(SPARE) is not None


async def uses_of(plane, kind):
    if kind == "tenant":
        alias = tenant_pb2.ModelAlias(alias="x", base_model=SPARE)
        await plane.new_pool("spare", base_model=SPARE)
        tenant = tenant_pb2.Tenant(config=tenant_pb2.TenantConfig(models=[alias]))
        await plane.call("CreateTenant", pb.CreateTenantRequest(tenant_id="acme", tenant=tenant))
        # The pool alone would suffice.
        plane.store.put({}, [etcd_keys.pool_key("spare")])
        return "tenants/acme"
    if kind == "pool":
        return (await plane.new_pool("spare", base_model=SPARE)).name
    await plane.new_tenant("acme")
    config, weights, _ = peft_files()
    made = await plane.register("acme", [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)])
    return made.name


@pytest.mark.parametrize("kind", ["tenant", "pool", "adapter"])
async def test_whoever_uses_it_is_named(plane, kind):
    user = await uses_of(plane, kind)
    name = "models/m" if kind == "adapter" else SPARE
    with pytest.raises(FailedPreconditionError, match=user) as refused:
        await delete(plane, name, validate_only=True)
    assert refused.value.reason is Reason.RESOURCE_IN_USE
    with pytest.raises(FailedPreconditionError, match=user):
        await delete(plane, name)
    assert plane.current.state.model(name) is not None


async def test_only_platform_admins_and_only_with_a_current_etag(plane):
    await plane.new_tenant("acme")
    role = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant="tenants/acme")
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/ada", key=role))
    with pytest.raises(PermissionDeniedError):
        await delete(plane, caller=Call(made.secret))
    with pytest.raises(AbortedError):
        await delete(plane, etag='"1"')
    assert (await delete(plane, validate_only=True)).revision == plane.current.state.revision
    assert plane.current.state.model(SPARE) is not None


def once(plane, write):
    def before_write():
        plane.store.before_write = lambda: None
        write()

    plane.store.before_write = before_write


async def test_one_that_a_pool_begins_to_use_meanwhile_stays(plane):
    theirs = pool_pb2.Pool()
    theirs.CopyFrom(plane.current.state.pool("pools/p").pool)
    theirs.name, theirs.base_model = "pools/q", SPARE
    once(plane, lambda: plane.store.put({etcd_keys.pool_key("q"): theirs.SerializeToString()}))
    with pytest.raises(FailedPreconditionError, match="pools/q"):
        await delete(plane)
    assert plane.current.state.model(SPARE) is not None


async def names_it_while_it_goes(plane):
    """A tenant's edit that was decided on before the model was deleted."""
    await plane.new_pool("spare", base_model=SPARE)
    acme = await plane.new_tenant("acme")
    acme.config.models.add(alias="x", base_model=SPARE)
    gone = {etcd_keys.deleted_model_key("spare"): b"by somebody"}
    once(plane, lambda: plane.store.put(gone, [etcd_keys.model_key("spare")]))
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=acme))


async def test_one_that_goes_meanwhile_is_not_named(plane):
    with pytest.raises(AbortedError):
        await names_it_while_it_goes(plane)
    assert len(plane.current.state.tenant("acme").config.models) == 1


async def test_that_test_notices_an_edit_that_does_not_look(plane):
    plane.store.ignored_prefixes.add(etcd_keys.DELETED_MODELS)
    await names_it_while_it_goes(plane)
    assert len(plane.current.state.tenant("acme").config.models) == 2


async def test_a_deletion_leaves_what_such_an_edit_looks_for(plane):
    await delete(plane)
    assert await plane.store.get(etcd_keys.deleted_model_key("spare")) is not None


async def test_that_test_notices_a_deletion_that_does_not_look(plane):
    plane.store.ignored_prefixes |= {etcd_keys.TENANTS, etcd_keys.ADAPTERS, etcd_keys.POOLS}
    theirs = pool_pb2.Pool()
    theirs.CopyFrom(plane.current.state.pool("pools/p").pool)
    theirs.name, theirs.base_model = "pools/q", SPARE
    once(plane, lambda: plane.store.put({etcd_keys.pool_key("q"): theirs.SerializeToString()}))
    await delete(plane)
    assert plane.current.state.model(SPARE) is None


@pytest.mark.parametrize("method", ["CreatePool", "RegisterAdapter"])
async def test_nothing_is_made_for_one_that_goes_meanwhile(plane, method):
    await plane.new_tenant("acme")
    pool = pool_pb2.Pool()
    pool.CopyFrom(plane.current.state.pool("pools/p").pool)
    pool.endpoints[0].target = "q.internal:8001"
    once(plane, lambda: plane.store.put({}, [etcd_keys.model_key("m")]))
    config, weights, _ = peft_files()
    made = (
        plane.call("CreatePool", pb.CreatePoolRequest(pool_id="q", pool=pool))
        if method == "CreatePool"
        else plane.register("acme", [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)])
    )
    with pytest.raises(Error):
        await made
    assert plane.current.state.pool("pools/q") is None
    assert list(plane.current.state.under("adapters/")) == []
