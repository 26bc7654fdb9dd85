"""Makes the demo through the admin RPCs: a base model, a pool, three tenants with a key each.

Idempotent: a second run makes only what is missing. Changes by operators stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenantry.config.v1.tenant_pb2 import ModelAlias, TenantConfig

from services.cli.clients.admin import AdminClient
from services.cli.demo.catalog import MODEL, provision_catalog
from services.cli.demo.keys import ensure_key
from services.common.errors import Error, NotFoundError
from services.local.layout import StateLayout
from services.local.needs import DEMO_ADAPTERS
from triton_models.cpu_engine.preparation import PreparedModel

ALIAS = "assistant"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant of the demo; no adapter means the bare base model."""

    tenant_id: str
    display_name: str
    adapter: str = ""


DEMO_TENANTS = (
    DemoTenant("acme", "Acme"),
    DemoTenant("globex", "Globex", "pirate"),
    DemoTenant("initech", "Initech", "butler"),
)


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The demo as it was made."""

    keys: Mapping[str, Path]
    """Tenant to its key file."""
    refused: Mapping[str, Error]
    """Tenants that could not be made ready, and why."""


async def provision(
    admin: AdminClient, model: PreparedModel, triton_target: str, layout: StateLayout
) -> Provisioned:
    """Make what is missing. A tenant that is refused does not keep the others from being served.

    Raises:
        CommandError: the state was made with another model.
        Error: the config service refused the model or the pool.
    """
    await provision_catalog(admin.catalog, model, triton_target, layout)
    keys: dict[str, Path] = {}
    refused: dict[str, Error] = {}
    for tenant in DEMO_TENANTS:
        path = layout.keys_dir / f"{tenant.tenant_id}.key"
        try:
            await _tenant(admin, tenant)
            await ensure_key(admin, tenant.tenant_id, path)
        except Error as error:
            refused[tenant.tenant_id] = error
        else:
            keys[tenant.tenant_id] = path
    return Provisioned(keys, refused)


async def _tenant(admin: AdminClient, tenant: DemoTenant) -> None:
    alias = ModelAlias(alias=ALIAS, base_model=f"models/{MODEL}")
    try:
        found = await admin.get_tenant(tenant.tenant_id)
    except NotFoundError:
        found = await admin.create_tenant(
            tenant.tenant_id, TenantConfig(models=[alias]), display_name=tenant.display_name
        )
    # Unchanged since this run, or a run that ended halfway, made it. Any other version is an operator's work.
    if tenant.adapter and found.config_version == 1 and list(found.config.models) == [alias]:
        await _adapter(admin, tenant)
        found.config.models[0].adapter = tenant.adapter
        await admin.update_tenant(found, paths=["config"])


async def _adapter(admin: AdminClient, tenant: DemoTenant) -> None:
    try:
        await admin.catalog.get_adapter(tenant.tenant_id, tenant.adapter)
    except NotFoundError:
        folder = DEMO_ADAPTERS / tenant.adapter
        files = {name: await asyncio.to_thread((folder / name).read_bytes) for name in _ADAPTER_FILES}
        await admin.catalog.register_adapter(tenant.tenant_id, tenant.adapter, MODEL, files)
