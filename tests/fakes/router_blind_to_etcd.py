"""`python -m tests.fakes.router_blind_to_etcd`: the mutant of a router that does not look what a heartbeat says."""

from __future__ import annotations

from services.router import config_client
from services.router.main import main

config_client._follows_etcd = lambda heartbeat: True

if __name__ == "__main__":
    main()
