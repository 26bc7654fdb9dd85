"""`tenantry tenant usage`: what a tenant has used of its quotas and spend budgets."""

from __future__ import annotations

import typer
from tenantry.config.v1.tenant_usage_pb2 import Allowance, AllowanceUsage

from services.cli.clients.names import short
from services.cli.commands.change_options import TenantId
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output
from services.cli.terminal.wording import when

app = typer.Typer(add_completion=False)

_WORDS = {
    Allowance.ALLOWANCE_TOKENS_HOUR: "tokens this hour",
    Allowance.ALLOWANCE_TOKENS_DAY: "tokens this day",
    Allowance.ALLOWANCE_TOKENS_MONTH: "tokens this month",
    Allowance.ALLOWANCE_SPEND_DAY: "spend this day",
    Allowance.ALLOWANCE_SPEND_MONTH: "spend this month",
}
_SPEND = frozenset({Allowance.ALLOWANCE_SPEND_DAY, Allowance.ALLOWANCE_SPEND_MONTH})


@app.command()
@shared_options
async def usage(mesh: Mesh, output: Output, tenant: TenantId) -> None:
    """Show what a tenant has used of its quotas and spend budgets. Routers hold what they may have used since."""
    async with mesh.admin() as admin:
        found = await admin.get_usage(tenant)
    output.table(
        list(found.allowances),
        ("OF", "USED", "HELD BY ROUTERS", "LIMIT", "USED %", "ENDS", ""),
        (
            (
                _WORDS.get(one.allowance, str(one.allowance)),
                _amount(one, one.used_units),
                _amount(one, one.held_units),
                _amount(one, one.limit_units),
                f"{100 * one.used_units / one.limit_units:.1f}",
                when(one.window_end),
                "" if one.enforced else "shadow: refuses nothing",
            )
            for one in found.allowances
        ),
        empty=f"{short(found.name)} has no quotas and no spend budgets.",
    )


def _amount(one: AllowanceUsage, units: int) -> str:
    """Tokens, or money with its six places."""
    return f"{units / 1_000_000:.6f}" if one.allowance in _SPEND else str(units)
