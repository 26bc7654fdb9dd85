"""`python -m tests.fakes.router_blind_to_etcd`: the mutant of a router that does not look what a heartbeat says."""

from __future__ import annotations

from services.router.main import main
from services.router.snapshot import config_client

config_client._etcd_silence_seconds = lambda heartbeat: 0.0

if __name__ == "__main__":
    main()
