"""`tenantry audit`: export, verify, grant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.audit.bundle.manifest import SECTION_NAMES
from services.audit.bundle.pinned_keys import PinnedKeys
from services.audit.bundle.report import VerificationReport
from services.audit.bundle.verify import claimed_origins, verify_bundle
from services.audit.proofs.signed_note import NoteError
from services.cli.clients.names import short
from services.cli.given_text import expanded
from services.cli.invocation import offline_options, shared_options
from services.cli.mesh import Mesh, read_secret
from services.cli.review.bundle_folder import require_free
from services.cli.review.fetch import fetch_log
from services.cli.review.grants import granted_tenant_uid, issue_grant
from services.cli.review.pins import find_pin, read_pin
from services.cli.settings import read_settings
from services.cli.terminal.interruption import ended_by_signals
from services.cli.terminal.output import Output, quoted
from services.cli.terminal.wording import counted, size
from services.common.command_errors import FAILURE_STATUS, CommandError, UsageError
from services.common.durable_files import create_file
from services.common.errors import Error

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Export a tenant's audit log and verify it offline."
)

TenantOrUid = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name, or its uid.")]


@app.command()
@shared_options
async def export(
    mesh: Mesh,
    output: Output,
    tenant: TenantOrUid,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to; empty or not there yet.")],
    grant_file: Annotated[Path, typer.Option(metavar="FILE", help="Holds the reviewer's grant.")],
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For all of it.")] = 600.0,
) -> None:
    """Export one tenant's whole log, decrypted, as files that verify offline."""
    require_free(out)
    grant = read_secret(grant_file, "grant")
    tenant_uid = granted_tenant_uid(grant)
    await _require_same_tenant(mesh, tenant, tenant_uid)
    fetched = await ended_by_signals(fetch_log(mesh, grant, tenant_uid, out, output, timeout))
    if output.json:
        output.record(
            {
                "tenant_uid": tenant_uid,
                "directory": str(out),
                "files": fetched.files,
                "bytes": fetched.size_bytes,
                "keys": str(fetched.pin),
            }
        )
        return
    output.line(f"{out}: {fetched.files} files, {size(fetched.size_bytes)}.")
    if fetched.is_new_pin:
        output.note(
            f"The log's public keys were pinned in {fetched.pin}: check them once over another channel."
        )
    chosen = "" if mesh.state_dir == mesh.settings.state_path else f" --state-dir {quoted(mesh.state_dir)}"
    output.suggest("Verify it", f"tenantry audit verify {quoted(out)}{chosen}")


async def _require_same_tenant(mesh: Mesh, tenant: str, tenant_uid: str) -> None:
    """Check that the grant, which names only a uid, is for the tenant that was named."""
    if tenant == tenant_uid:
        return
    try:
        async with mesh.admin() as admin:
            found = await admin.get_tenant(tenant)
    except (Error, CommandError):
        raise UsageError(
            f"cannot tell whether the grant, for the tenant with uid {tenant_uid}, is for {tenant}.",
            f"If it is the one you mean, give {tenant_uid} in place of {tenant}.",
        ) from None
    if found.tenant_uid != tenant_uid:
        raise UsageError(
            f"the grant is for the tenant with uid {tenant_uid}, not for {tenant} ({found.tenant_uid}).",
            f"Get one for it: tenantry audit grant {quoted(short(tenant))}",
        )


@app.command()
@offline_options
def verify(
    output: Output,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported bundle.")],
    *,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Pinned keys, never ones that came with it [what `export` pinned]."
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show every damage, not only the causes.")] = False,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where `export` pinned the keys [the local mesh's].")
    ] = None,
) -> None:
    """Check a bundle offline: every byte, the order, the signatures. Makes no calls.

    Exit status: 0 for a good bundle, 1 for a damaged one or one of another tenant than the keys, 2 where nothing could
    be checked (no such folder, no keys).
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Give the folder `tenantry audit export` wrote.")
    kept = expanded(state_dir) if state_dir else read_settings().state_path
    keys = keys or find_pin(kept, claimed_origins(folder))
    pin = read_pin(keys)
    try:
        pinned = PinnedKeys.parse(pin.log_keys, pin.manifest_keys)
    except NoteError:
        raise UsageError(f"{keys} does not hold keys in the signed-note form.") from None
    report = verify_bundle(folder, pinned)
    if report.good and report.tenant_uid != pin.tenant_uid:
        raise CommandError(f"the bundle is of tenant {report.tenant_uid}, the keys are of {pin.tenant_uid}.")
    if output.json:
        output.record({**_record(report), "keys": str(keys)})
    elif report.good:
        _show_good(output, folder, report)
    else:
        _show_damages(output, folder, report, everything=all_)
    if report.ignored:
        output.note(f"Ignored, and no part of the bundle: {', '.join(report.ignored)}.")
    output.note(f"Checked with the keys pinned in {keys}.")
    if not report.good:
        raise typer.Exit(FAILURE_STATUS)


def _record(report: VerificationReport) -> dict[str, object]:
    causes = report.causes()
    return {
        "good": report.good,
        "verdict": report.verdict(),
        "tenant_uid": report.tenant_uid,
        "origin": report.origin,
        "size": report.size,
        "first_index": report.first_index,
        "end_index": report.end_index,
        "filters": report.window.document(),
        "sections": list(report.sections),
        "shredded": [dek_id.hex() for dek_id in report.shredded],
        "counts": report.counts,
        "damages": [
            {"file": damage.file, "what": damage.what, "is_cause": damage in causes}
            for damage in report.damages
        ],
        "ignored": report.ignored,
    }


def _show_good(output: Output, folder: Path, report: VerificationReport) -> None:
    held = f"{report.size} entries"
    if (report.first_index, report.end_index) != (0, report.size):
        held = f"entries {report.first_index} to {report.end_index - 1} of {report.size}"
    output.line(f"{folder}: good. {held} of tenant {report.tenant_uid}, none missing.")
    hidden = _hidden(report)
    if hidden:
        output.note(f"Not all of their content is shown: {', '.join(hidden)}.")
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts.items() if count)
    output.note(f"{report.origin}: {kinds}")


def _show_damages(output: Output, folder: Path, report: VerificationReport, *, everything: bool) -> None:
    output.failure(f"{folder}: damaged.", style="bold red")
    shown = report.damages if everything else report.causes()
    for damage in shown:
        output.failure(f"  {damage}")
    output.failure(report.verdict())
    left = len(report.damages) - len(shown)
    if left:
        output.note(
            f"{counted(left, 'more finding')} beside {'it' if len(shown) == 1 else 'them'}: see --all."
        )


def _hidden(report: VerificationReport) -> list[str]:
    """The reasons why a good bundle does not show all content of its entries."""
    why = [f"{name} {value}" for name, value in report.window.document().items()]
    if report.sections != SECTION_NAMES:
        why.append(f"only {', '.join(report.sections) or 'no section'}")
    if report.shredded:
        why.append(f"{counted(len(report.shredded), 'data key')} destroyed")
    return why


@app.command()
@shared_options
async def grant(
    mesh: Mesh,
    output: Output,
    tenant: TenantOrUid,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to (mode 0600) [TENANT.grant].")
    ] = None,
    hours: Annotated[int, typer.Option(min=1, max=168, metavar="N", help="How long it works.")] = 24,
    audit_state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The audit service's state [STATE_DIR/audit].")
    ] = None,
    uid: Annotated[bool, typer.Option("--uid", help="TENANT is a uid already; do not look it up.")] = False,
) -> None:
    """Issue a reviewer's grant. Works only on the host that has the audit service's state, on purpose."""
    target = out or Path(f"{short(tenant)}.grant")
    if target.exists():
        raise UsageError(f"{target} exists already and is left alone.", "Give --out another path.")
    state = audit_state or mesh.state_dir / "audit"
    if not state.is_dir():
        raise UsageError(
            f"there is no state of an audit service at {state}.",
            "Grants are issued on the audit service's host; give --audit-state if its state is elsewhere.",
        )
    if uid:
        tenant_uid = tenant
    else:
        async with mesh.admin() as admin:
            tenant_uid = (await admin.get_tenant(tenant)).tenant_uid
    secret = await issue_grant(state, tenant_uid, ttl_seconds=hours * 3600)
    try:
        create_file(target, secret.encode() + b"\n")
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror}.") from None
    if output.json:
        output.record({"tenant_uid": tenant_uid, "grant_file": str(target), "hours": hours})
        return
    output.line(f"{target}: opens the audit log of {tenant_uid} for {hours} h.")
    name, folder = quoted(short(tenant)), quoted(f"{short(tenant)}-audit")
    output.suggest("Use it", f"tenantry audit export {name} --out {folder} --grant-file {quoted(target)}")
