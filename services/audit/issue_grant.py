"""`python -m services.audit.issue_grant`: sign a reviewer's grant, with access to the audit service's own state.

That access is the separation of duties: no role in the config service can make a reviewer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from services.audit.grants import issue_grant
from services.audit.signing_keys import load_signing_keys
from services.common.clock import SystemClock


def main() -> None:
    """Print a grant for one tenant's log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="the audit service's state directory")
    parser.add_argument("--tenant-uid", required=True, help="whose log it opens")
    parser.add_argument(
        "--ttl-seconds", type=int, default=86_400, help="how long it works; one day by default"
    )
    arguments = parser.parse_args()
    if not (arguments.state_dir / "keys" / "grants.pem").exists():
        sys.exit(f"{arguments.state_dir} is not the state of an audit service that has run")
    keys = load_signing_keys(arguments.state_dir / "keys")
    try:
        grant = issue_grant(keys.grants, arguments.tenant_uid, arguments.ttl_seconds, SystemClock())
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(grant + "\n")


if __name__ == "__main__":
    main()
