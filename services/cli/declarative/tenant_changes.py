"""Changes of a tenant that have command line options of their own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from tenantry.config.v1.tenant_pb2 import AuditPolicy, IsolationTier, ModelAlias, Tenant, TenantConfig

from services.cli.clients.names import model_name, pool_name, short
from services.cli.numbers import INT32_MAX, INT64_MAX, whole_number
from services.common.command_errors import UsageError


class Tier(StrEnum):
    """The isolation tiers, as an option takes them."""

    SHARED = "shared"
    ISOLATED = "isolated"
    DEDICATED = "dedicated"


class Auditing(StrEnum):
    """The audit policies, as an option takes them."""

    BATCH = "batch"
    BLOCKING = "blocking"
    BLOCKING_STRICT = "blocking-strict"


@dataclass(frozen=True, slots=True)
class TenantChanges:
    """The new values, one option each. None leaves a field unchanged."""

    display_name: Annotated[str | None, typer.Option(metavar="TEXT", help="The name that people read.")] = (
        None
    )
    system_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Placed before every conversation; @FILE reads a file.")
    ] = None
    alias: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model alias --base-model and --adapter are about.")
    ] = None
    base_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base model behind the alias.")
    ] = None
    adapter: Annotated[
        str | None, typer.Option(metavar="ADAPTER", help="The tenant's adapter the alias uses; '' for none.")
    ] = None
    tier: Annotated[Tier | None, typer.Option(metavar="TIER", help="shared, isolated or dedicated.")] = None
    audit_policy: Annotated[
        Auditing | None, typer.Option(metavar="POLICY", help="batch, blocking or blocking-strict.")
    ] = None
    pool: Annotated[str | None, typer.Option(metavar="POOL", help="The pool that serves it.")] = None
    weight: Annotated[
        int | None,
        typer.Option(parser=whole_number(INT32_MAX), metavar="1-1000", help="Share of contended capacity."),
    ] = None
    requests_per_second: Annotated[
        float | None, typer.Option("--rate", metavar="N", help="Requests a second, sustained.")
    ] = None
    concurrent_requests: Annotated[
        int | None,
        typer.Option(
            "--concurrency", parser=whole_number(INT32_MAX), metavar="N", help="Requests in the mesh at once."
        ),
    ] = None
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(
            "--token-rate", parser=whole_number(INT64_MAX), metavar="N", help="Tokens a minute, in and out."
        ),
    ] = None

    def apply(self, tenant: Tenant) -> None:
        """Change a tenant in place.

        Raises:
            UsageError: the alias does not exist, and no base model is given to make it.
        """
        if self.display_name is not None:
            tenant.display_name = self.display_name
        config = tenant.config
        if self.system_prompt is not None:
            config.system_prompt = self.system_prompt
        if self.tier is not None:
            config.isolation_tier = IsolationTier.Value(f"ISOLATION_TIER_{self.tier.name}")
        if self.audit_policy is not None:
            config.audit_policy = AuditPolicy.Value(f"AUDIT_POLICY_{self.audit_policy.name}")
        if self.pool is not None:
            config.pool = pool_name(self.pool) if self.pool else ""
        self._apply_model(config)
        self._apply_limits(config)

    def _apply_model(self, config: TenantConfig) -> None:
        if self.alias is None and self.base_model is None and self.adapter is None:
            return
        model = self._chosen_alias(config)
        if self.base_model is not None:
            model.base_model = model_name(self.base_model)
        if self.adapter is not None:
            model.adapter = short(self.adapter)
            # The old version number belongs to the old adapter.
            model.adapter_version = 0

    def _chosen_alias(self, config: TenantConfig) -> ModelAlias:
        wanted = self.alias or config.default_model or (config.models[0].alias if config.models else None)
        for model in config.models:
            if model.alias == wanted:
                return model
        if self.base_model is None:
            raise UsageError(f"there is no model alias {wanted or ''} yet.", "Make one with --base-model.")
        return config.models.add(alias=wanted or short(self.base_model))

    def _apply_limits(self, config: TenantConfig) -> None:
        if self.weight is not None:
            config.weight = self.weight
        if self.requests_per_second is not None:
            config.limits.requests_per_second = self.requests_per_second
        if self.concurrent_requests is not None:
            config.limits.concurrent_requests = self.concurrent_requests
        if self.tokens_per_minute is not None:
            config.limits.tokens_per_minute = self.tokens_per_minute
