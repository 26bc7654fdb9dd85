"""Issues a reviewer's grant beside the audit service, and reads the tenant from one."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from services.cli.review.token_claims import read_claims
from services.common.command_errors import CommandError, UsageError

# Becomes a part of a file's name.
_TENANT_UID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ISSUE_TIMEOUT_SECONDS = 30.0


async def issue_grant(audit_state: Path, tenant_uid: str, *, ttl_seconds: int) -> str:
    """Have a grant made by the audit service's own issuer, the only code that reads its signing key.

    Raises:
        CommandError: the issuer refused, or did not answer.
    """
    arguments = ["--state-dir", audit_state, "--tenant-uid", tenant_uid, "--ttl-seconds", ttl_seconds]
    # -P: do not run a folder `services` of the current directory.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.audit.rpc.issue_grant", *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_ISSUE_TIMEOUT_SECONDS):
            out, complaint = await process.communicate()
    except TimeoutError:
        raise CommandError(
            f"the audit service's issuer did not answer within {_ISSUE_TIMEOUT_SECONDS:.0f} s.",
            f"Is the disk of {audit_state} slow or full? Try again.",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    if process.returncode != 0:
        last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise CommandError(f"the audit service's issuer refused: {''.join(last) or 'it said nothing'}.")
    return out.decode("ascii").strip()


def granted_tenant_uid(grant: str) -> str:
    """The tenant_uid whose log a grant opens.

    Raises:
        UsageError: it is not a grant.
    """
    tenant_uid = read_claims(grant).get("sub")
    if not isinstance(tenant_uid, str) or not _TENANT_UID.fullmatch(tenant_uid):
        raise UsageError(
            "the grant file does not hold a reviewer's grant.",
            "On the audit service's host: tenantry audit grant TENANT",
        )
    return tenant_uid
