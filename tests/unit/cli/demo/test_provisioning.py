"""What `tenantry up` makes in a kept state: only what is missing, over whatever operators have done since."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tenantry.config.v1.credential_pb2 import KeyState

from services.cli.clients.admin import AdminClient
from services.cli.clients.listener import Listener
from services.cli.demo.provisioning import DEMO_TENANTS, provision
from services.common.command_errors import CommandError
from services.common.errors import UnavailableError
from services.local.layout import open_layout
from tests.fakes.cli_calls import OPERATOR_KEY
from tests.fakes.model_cards import tiny_card
from triton_models.cpu_engine.preparation import PreparedModel


def readable_secret(key):
    claims = base64.urlsafe_b64encode(json.dumps({"jti": key.name.rsplit("/", 1)[-1]}).encode())
    return f"head.{claims.decode().rstrip('=')}.signature"


@dataclass(frozen=True)
class KeyFile:
    path: Path

    def read(self):
        return self.path.read_bytes()

    def write(self, data):
        self.path.write_bytes(data)


@pytest.fixture
def model(tmp_path):
    paths = {
        name: tmp_path / name
        for name in (
            "directory", "hf_directory", "weights_path", "config_path", "tokenizer_path",
            "tokenizer_config_path", "chat_template_path", "model_card_path",
        )
    }  # fmt: skip
    paths["tokenizer_path"].write_text("{}")
    paths["chat_template_path"].write_text("hello")
    return PreparedModel(
        **paths,
        weights_sha256="a" * 64,
        tokenizer_sha256="b" * 64,
        chat_template_sha256="c" * 64,
        card=tiny_card(),
    )


@pytest.fixture
def up(mesh, admin, model, tmp_path):
    """Provisions as one run of `tenantry up` does."""
    admin.secret_of = lambda key: (
        setattr(key.expire_time, "seconds", int(time.time()) + 86_400) or (readable_secret(key))
    )

    async def run(target="127.0.0.1:1", model=model):
        with open_layout(tmp_path / "demo") as layout:
            listener = Listener(mesh.endpoints.operations_address)
            async with AdminClient.connect(listener, OPERATOR_KEY) as client:
                return await provision(client, model, target, layout)

    return run


def targets(admin):
    return [endpoint.target for endpoint in admin.pools["pools/local"].endpoints]


async def test_a_second_run_changes_nothing(up, admin):
    first = await up()
    assert set(first.keys) == {tenant.tenant_id for tenant in DEMO_TENANTS}
    assert not first.refused
    made = list(admin.changes), list(admin.updates)
    assert (await up()).keys == first.keys
    assert (admin.changes, admin.updates) == made


@pytest.mark.parametrize("spoil", ["revoked", "expired", "damaged", "of another"])
async def test_a_key_that_does_not_work_any_more_is_replaced(up, admin, spoil):
    file = KeyFile((await up()).keys["acme"])
    before = file.read()
    [key] = [key for name, key in admin.keys.items() if name.startswith("tenants/acme/")]
    if spoil == "revoked":
        key.state = KeyState.KEY_STATE_REVOKED
    elif spoil == "expired":
        key.expire_time.seconds = int(time.time()) + 60
    elif spoil == "damaged":
        file.write(b"not a key")
    else:
        del admin.keys[key.name]
    await up()
    assert file.read() not in {before, b"not a key"}
    assert len([name for name in admin.keys if name.startswith("tenants/globex/")]) == 1


async def test_an_adapter_an_operator_took_away_stays_away(up, admin):
    await up()
    globex = admin.tenants["tenants/globex"]
    assert globex.config.models[0].adapter == "pirate"
    globex.config.models[0].adapter = ""
    globex.config_version += 1
    await up()
    assert not admin.tenants["tenants/globex"].config.models[0].adapter


async def test_a_run_that_ended_before_the_adapter_was_set_is_completed(up, admin):
    await up()
    globex = admin.tenants["tenants/globex"]
    globex.config.models[0].adapter = ""
    globex.config_version = 1
    await up()
    assert admin.tenants["tenants/globex"].config.models[0].adapter == "pirate"
    assert len(admin.adapters["tenants/globex/adapters/pirate"].versions) == 1


async def test_an_operators_endpoints_stay_when_our_own_moves(up, admin):
    await up("127.0.0.1:1")
    admin.pools["pools/local"].endpoints.add(target="127.0.0.1:9")
    await up("127.0.0.1:2")
    assert targets(admin) == ["127.0.0.1:2", "127.0.0.1:9"]
    await up("127.0.0.1:3")
    assert targets(admin) == ["127.0.0.1:3", "127.0.0.1:9"]


async def test_an_update_that_did_not_happen_leaves_no_dead_endpoint_behind(up, admin, monkeypatch):
    await up("127.0.0.1:1")

    async def fails(*_):
        raise UnavailableError("etcd is away")

    with monkeypatch.context() as patched:
        patched.setattr("services.cli.clients.admin_catalog.CatalogClient.update_pool", fails)
        with pytest.raises(UnavailableError):
            await up("127.0.0.1:2")
    await up("127.0.0.1:3")
    assert targets(admin) == ["127.0.0.1:3"]


async def test_a_state_made_with_another_model_is_refused(up, admin):
    await up()
    admin.models["models/smollm2"].weights_sha256 = "f" * 64
    with pytest.raises(CommandError, match="not the one this version"):
        await up()


async def test_one_tenant_in_the_way_does_not_stop_the_others(up, admin):
    await up()
    admin.keys.clear()

    def refuse(key):
        if key.name.startswith("tenants/acme/"):
            raise ValueError
        return readable_secret(key)

    admin.secret_of = refuse
    made = await up()
    assert set(made.keys) == {"globex", "initech"}
    assert set(made.refused) == {"acme"}
