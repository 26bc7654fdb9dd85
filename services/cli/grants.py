"""A reviewer's grant, as far as its bearer can read it. The audit service checks it; here it is only looked at."""

from __future__ import annotations

import re

from services.cli.errors import UsageError
from services.cli.token_claims import read_claims

# Becomes a part of a file's name.
_TENANT_UID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def granted_tenant_uid(grant: str) -> str:
    """The tenant whose log a grant opens.

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
