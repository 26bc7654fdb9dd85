"""Extracts from records the facts that rules decide on. Pure."""

from __future__ import annotations

from functools import partial

from tenantry.config.v1 import adapter_pb2, pool_pb2

from services.config.rules.report import Surroundings, listed
from services.config.rules.serving import AdapterForm, PoolFacts, VersionFacts
from services.config.state.config_state import ConfigState
from services.config.state.records import AdapterRecord, ModelRecord, PoolRecord


def surroundings(state: ConfigState, tenant_name: str, tenant_uid: str) -> Surroundings:
    """The models, pools and adapters that a tenant's config may refer to."""
    return Surroundings(
        tenant_name,
        {r.model.name: r.model.context_tokens for r in state.under("models/") if isinstance(r, ModelRecord)},
        pool_facts(state),
        adapter_facts(state, tenant_uid),
        has_key=partial(_has_key, state, tenant_uid),
    )


def _has_key(state: ConfigState, tenant_uid: str, key_id: str) -> bool:
    record = state.credential(key_id)
    return bool(tenant_uid) and record is not None and record.stored.tenant_uid == tenant_uid


def no_base_model(state: ConfigState) -> str:
    """The violation of a base model's name that does not exist; lists those that do."""
    names = (r.model.name for r in state.under("models/") if isinstance(r, ModelRecord))
    return f"names no base model; {listed(names)}"


def pool_facts(state: ConfigState) -> dict[str, PoolFacts]:
    """Every pool, by name."""
    return {r.pool.name: facts_of_pool(r.pool) for r in state.under("pools/") if isinstance(r, PoolRecord)}


def facts_of_pool(pool: pool_pb2.Pool) -> PoolFacts:
    """The facts of one pool."""
    form = AdapterForm(pool.dialect, pool.engine_sha256, pool.adapter_dtype, pool.adapter_config_columns)
    return PoolFacts(pool.base_model, pool.dedicated_to, form, pool.available_time.ToNanoseconds())


def adapter_facts(state: ConfigState, tenant_uid: str) -> dict[str, dict[int, VersionFacts]]:
    """A tenant's adapters, by id and version; none for a tenant that does not exist yet."""
    return {
        record.stored.adapter_id: {
            version.version: VersionFacts(version.base_model, frozenset(map(_form, version.renditions)))
            for version in record.stored.versions
        }
        for record in (state.under(f"adapters/{tenant_uid}/") if tenant_uid else ())
        if isinstance(record, AdapterRecord)
    }


def _form(rendition: adapter_pb2.Rendition) -> AdapterForm:
    return AdapterForm(rendition.dialect, rendition.engine_sha256, rendition.dtype, rendition.config_columns)
