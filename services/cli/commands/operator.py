"""`tenantry operator`: log."""

from __future__ import annotations

import asyncio
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.audit.bundle.pinned_keys import PinnedKeys
from services.audit.bundle.reader import read_records
from services.audit.bundle.report import VerificationReport
from services.audit.bundle.verify import verify_bundle
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh, read_secret
from services.cli.moments import moment
from services.cli.review.fetch import Fetched, fetch_log
from services.cli.review.grants import granted_tenant_uid, issue_grant
from services.cli.review.operator_edits import OPEN, Edit, EditFilter, Gap, chosen, read_edits
from services.cli.review.pins import read_pin
from services.cli.terminal.interruption import ended_by_signals
from services.cli.terminal.output import Cell, Output, Styled
from services.cli.terminal.wording import counted
from services.common.audit.entry import OPERATOR_LOG_UID
from services.common.command_errors import CommandError, UsageError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Show what operators changed, when and why."
)
_GRANT_SECONDS = 600


@app.callback()
def _group() -> None:
    """Show what operators changed, when and why."""


@app.command()
@shared_options
async def log(
    mesh: Mesh,
    output: Output,
    *,
    by: Annotated[str, typer.Option("--by", metavar="OPERATOR", help="Only this operator's edits.")] = "",
    call: Annotated[
        str, typer.Option("--call", metavar="METHOD", help="Only this call, for example SuspendTenant.")
    ] = "",
    resource: Annotated[
        str,
        typer.Option(
            "--resource", metavar="NAME", help="Only this resource, for example acme or pools/main."
        ),
    ] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Not before: 2026-12-31, 2026-12-31T10:00 (UTC), 24h or 7d.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Only before that; the same forms.")] = "",
    grant_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with a grant for the operator log.")
    ] = None,
    audit_state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The audit service's state [STATE_DIR/audit].")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Time for the export.")] = 600.0,
) -> None:
    """Show who changed what, when and why, from the operator audit log. Verifies the whole log first.

    Reading the log needs a grant of the audit service. On the host of that service the command makes one itself.
    """
    now = datetime.fromtimestamp(time.time(), UTC)
    wanted = EditFilter(
        operator=by,
        method=call,
        resource=resource,
        since_ns=moment(since, now, "--since"),
        until_ns=moment(until, now, "--until"),
    )
    grant = await _grant(mesh, grant_file, audit_state)
    fetched, report, edits = await ended_by_signals(_read(mesh, grant, output, timeout))
    _show(output, list(chosen(edits, wanted)), report)
    if fetched.is_new_pin:
        output.note(
            f"The log's public keys were pinned in {fetched.pin}: check them once over another channel."
        )


async def _read(
    mesh: Mesh, grant: str, output: Output, timeout_seconds: float
) -> tuple[Fetched, VerificationReport, list[Edit | Gap]]:
    """Export the log into a folder that is removed again, verify it and read it."""
    with tempfile.TemporaryDirectory(prefix="tenantry-") as scratch:
        folder = Path(scratch) / "log"
        fetched = await fetch_log(mesh, grant, OPERATOR_LOG_UID, folder, output, timeout_seconds)
        report = await asyncio.to_thread(_verified, folder, fetched.pin)
        return fetched, report, await asyncio.to_thread(lambda: read_edits(read_records(folder)))


async def _grant(mesh: Mesh, grant_file: Path | None, audit_state: Path | None) -> str:
    if grant_file is not None:
        grant = read_secret(grant_file, "grant")
        if granted_tenant_uid(grant) != OPERATOR_LOG_UID:
            raise UsageError(
                f"the grant in {grant_file} is for a tenant's log, not for the operator log.", _HINT
            )
        return grant
    state = audit_state or mesh.state_dir / "audit"
    if not state.is_dir():
        raise UsageError("reading the operator log needs a grant of the audit service.", _HINT)
    return await issue_grant(state, OPERATOR_LOG_UID, ttl_seconds=_GRANT_SECONDS)


_HINT = f"On the audit service's host: tenantry audit grant {OPERATOR_LOG_UID} --uid; then give --grant-file."


def _verified(folder: Path, pin_path: Path) -> VerificationReport:
    """Verify the exported log.

    Raises:
        CommandError: it is damaged, or it is another log.
    """
    pin = read_pin(pin_path)
    report = verify_bundle(folder, PinnedKeys.parse(pin.log_keys, pin.manifest_keys))
    if not report.good:
        raise CommandError(
            "the operator log does not verify; nothing of it is shown.",
            report.verdict(),
            [("", str(damage)) for damage in report.causes()],
        )
    if report.tenant_uid != OPERATOR_LOG_UID:
        raise CommandError(f"the audit service sent the log of {report.tenant_uid}, not the operator log.")
    return report


def _show(output: Output, edits: list[Edit | Gap], report: VerificationReport) -> None:
    if output.json:
        for edit in edits:
            output.record({"log": report.origin, **_record(edit)})
        return
    if edits:
        output.rows(("TIME", "BY", "CALL", "RESOURCE", "REASON", ""), (_row(edit) for edit in edits))
    gaps = sum(isinstance(edit, Gap) for edit in edits)
    shown = counted(len(edits) - gaps, "edit") + (f" and {counted(gaps, 'gap')}" if gaps else "")
    output.note(f"{shown} of {report.origin}. The whole log, {report.size} entries, is verified.")


def _row(edit: Edit | Gap) -> tuple[Cell, ...]:
    if isinstance(edit, Gap):
        lost = f"{counted(edit.dropped, 'record')} lost"
        return (_when(edit.time_ns), edit.writer, "", "", "", Styled(lost, "yellow"))
    outcome = "" if edit.outcome == "written" else Styled(edit.outcome, "yellow")
    return (_when(edit.time_ns), edit.operator, edit.method, edit.resource, edit.reason, outcome)


def _record(edit: Edit | Gap) -> dict[str, object]:
    record: dict[str, object] = {"index": edit.index, "time": _iso(edit.time_ns)}
    if isinstance(edit, Gap):
        return {**record, "gap": {"dropped": edit.dropped, "writer": edit.writer}}
    record |= {
        "operator": edit.operator,
        "role": edit.role,
        "call": edit.method,
        "resource": edit.resource,
        "reason": edit.reason,
        "outcome": edit.outcome,
        "details": edit.details,
    }
    return record if edit.outcome == OPEN else {**record, "revision": edit.revision}


def _when(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _iso(time_ns: int) -> str:
    moment_ = datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment_}.{time_ns % 10**9:09d}Z"
