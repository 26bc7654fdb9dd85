"""`python -m services.audit.rpc.issue_grant`: sign a reviewer's grant with a key from the audit service's state.

Only a person with access to that state can make a reviewer. No role in the config service can.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from services.audit.rpc.grants import issue_grant
from services.common.clock import SystemClock
from services.common.tokens import AUDIT_ISSUER, TokenIssuer


def main() -> None:
    """Print a grant for one log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="the audit service's state directory")
    parser.add_argument("--tenant-uid", required=True, help="whose log it opens")
    parser.add_argument(
        "--ttl-seconds", type=int, default=86_400, help="how long it works; one day by default"
    )
    arguments = parser.parse_args()
    try:
        # Never make the key here: a new one would replace a lost one without notice.
        key = (arguments.state_dir / "keys" / "grants.pem").read_bytes()
    except OSError:
        sys.exit(f"{arguments.state_dir} is not the state of an audit service that has run")
    try:
        issuer = TokenIssuer.from_pem(key, AUDIT_ISSUER)
        grant = issue_grant(issuer, arguments.tenant_uid, arguments.ttl_seconds, SystemClock())
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(grant + "\n")


if __name__ == "__main__":
    main()
