"""Prints a plan and each step of it as it is taken, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tenantry.config.v1.tenant_pb2 import TenantConfig, TenantState

from services.cli.clients.names import tenant_name
from services.cli.declarative.effective_tenant import unset_between
from services.cli.declarative.tenant_plan import Action, Step, count
from services.cli.declarative.tenant_steps import Done
from services.cli.reference.effective import Unset
from services.cli.terminal.differences import COLUMNS, difference_cells, difference_records
from services.cli.terminal.output import Cell, Output, Styled
from services.cli.terminal.wording import counted

_STYLES = {
    Action.CREATE: "green",
    Action.UPDATE: "yellow",
    Action.UNCHANGED: "dim",
    Action.DELETE: "bold red",
}


def show_plan(output: Output, plan: Sequence[Step], *, verbose: bool) -> None:
    """Print a plan: a row for each difference, or one JSON object for each tenant.

    Args:
        output: gets the rows or objects.
        plan: the steps.
        verbose: for people, list also the tenants that stay as they are.
    """
    if output.json:
        for step in plan:
            output.record(_record(step))
    elif count(plan, Action.UNCHANGED) == len(plan):
        output.line(f"Nothing to do: {counted(len(plan), 'tenant')} as declared.")
    else:
        shown = [step for step in plan if verbose or step.action is not Action.UNCHANGED]
        output.rows(("TENANT", "ACTION", *COLUMNS), (row for step in shown for row in _rows(step)))
        output.line(f"{_summary(plan)}.")


def _summary(plan: Sequence[Step]) -> str:
    """`1 to create, 2 to update, 1 unchanged`, without the kinds that do not occur."""
    parts = []
    for action in Action:
        number = count(plan, action)
        if number:
            parts.append(f"{number} {action}" if action is Action.UNCHANGED else f"{number} to {action}")
    return ", ".join(parts)


def show_done(output: Output, done: Done) -> None:
    """Print a step that has been taken."""
    step = done.step
    if output.json:
        record: dict[str, object] = {"step": "applied", "tenant": step.tenant_id, "action": step.action}
        if done.config_version:
            record["config_version"] = done.config_version
        output.record({**record, "revision": done.revision})
        return
    word = {Action.CREATE: "created", Action.UPDATE: "updated", Action.DELETE: "deleted"}[step.action]
    version = f", config version {done.config_version}" if done.config_version else ""
    output.line(f"{tenant_name(step.tenant_id)}: {word}{version}.")


def _record(step: Step) -> dict[str, object]:
    record: dict[str, object] = {"step": "plan", "tenant": step.tenant_id, "action": step.action}
    if step.source:
        record["file"] = step.source
    if step.differences:
        record["differences"] = difference_records(step.differences, _unset_of(step))
    return record


def _rows(step: Step) -> Iterator[tuple[Cell, ...]]:
    action = Styled(step.action, _STYLES[step.action])
    if not step.differences:
        yield step.tenant_id, action, *_words(step)
        return
    unset_of = _unset_of(step)
    first, *more = step.differences
    yield step.tenant_id, action, *difference_cells(first, unset_of(first.field))
    for difference in more:
        yield "", "", *difference_cells(difference, unset_of(difference.field))


def _unset_of(step: Step) -> Callable[[str], Unset]:
    """The meaning of a field of the tenant before and after a step, where it is unset."""
    return unset_between(step.live.config if step.live else TenantConfig(), step.wanted.config)


def _words(step: Step) -> tuple[Cell, Cell, Cell]:
    """The cells of a step that has no differences to show."""
    if step.action is Action.CREATE:
        aliases = ", ".join(model.alias for model in step.wanted.config.models)
        return "", "", Styled(f"models {aliases}", "green")
    if step.action is Action.DELETE:
        assert step.live is not None
        served = step.live.state != TenantState.TENANT_STATE_SUSPENDED
        return (
            "",
            Styled("served; is suspended first" if served else "suspended", "red"),
            Styled("gone", "red"),
        )
    return "", "", ""
