"""A plan as people and programs see it, and every step of it as it is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tenantry.config.v1.tenant_pb2 import TenantState

from services.cli.clients.names import tenant_name
from services.cli.declarative.tenant_plan import Action, Step, count
from services.cli.declarative.tenant_steps import Done
from services.cli.terminal.differences import COLUMNS, difference_cells, difference_records
from services.cli.terminal.output import Cell, Output, Styled
from services.cli.terminal.wording import counted

_STYLES = {
    Action.CREATE: "green",
    Action.UPDATE: "yellow",
    Action.UNCHANGED: "dim",
    Action.DELETE: "bold red",
}


def show_plan(output: Output, plan: Sequence[Step]) -> None:
    """Print what would be done: a row a difference, or one JSON object a tenant."""
    if output.json:
        for step in plan:
            output.record(_record(step))
    elif count(plan, Action.UNCHANGED) == len(plan):
        output.line(f"Nothing to do: {counted(len(plan), 'tenant')} as declared.")
    else:
        output.rows(("TENANT", "ACTION", *COLUMNS), (row for step in plan for row in _rows(step)))
        output.line(f"{_summary(plan)}.")


def _summary(plan: Sequence[Step]) -> str:
    """`1 to create, 2 to update, 1 unchanged`; what there is none of is left out."""
    parts = []
    for action in Action:
        number = count(plan, action)
        if number:
            parts.append(f"{number} {action}" if action is Action.UNCHANGED else f"{number} to {action}")
    return ", ".join(parts)


def show_done(output: Output, done: Done) -> None:
    """Print a step that was taken."""
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
        record["differences"] = difference_records(step.differences)
    return record


def _rows(step: Step) -> Iterator[tuple[Cell, ...]]:
    action = Styled(step.action, _STYLES[step.action])
    if not step.differences:
        yield step.tenant_id, action, *_words(step)
        return
    first, *more = step.differences
    yield step.tenant_id, action, *difference_cells(first)
    for difference in more:
        yield "", "", *difference_cells(difference)


def _words(step: Step) -> tuple[Cell, Cell, Cell]:
    """In the place of differences."""
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
