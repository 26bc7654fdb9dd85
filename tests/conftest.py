"""What all tests share."""

from __future__ import annotations

import asyncio
import os
import re

import pytest
from grpc.aio import init_grpc_aio
from hypothesis import settings

from tests.event_loops import QuietlyClosedLoops

pytest_plugins = ["tests.run_limit"]

# What a shell or a CI system may set, and what changes the output and the settings that are tested: colours, widths,
# proxies between a test and its own server, and settings of a mesh that this user runs. Before anything reads them.
_OF_THE_USER = re.compile(
    "TENANTRY_.*|(NO|FORCE|PY)_COLORS?|CLICOLOR.*|GITHUB_ACTIONS|COLUMNS|LINES|TERMINAL_WIDTH|TTY_.*|(?i:.*_proxy)"
)
for _name in [name for name in os.environ if _OF_THE_USER.fullmatch(name)]:
    del os.environ[_name]

# gRPC stops its poller with the last server or channel and starts it again with the next. Held open here, so that
# a server which a failing test leaves behind cannot make another test wait for that stop.
init_grpc_aio()
asyncio.set_event_loop_policy(QuietlyClosedLoops())

# How long an example takes says how busy the machine and its disk are.
settings.register_profile("tenantry", deadline=None)
settings.load_profile("tenantry")


_ADDRESS = re.compile(" at 0x[0-9a-f]{6,}")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Two workers share the run: a module stays whole, and with it its servers; what shares a server stays together."""
    for item in items:
        if _ADDRESS.search(item.nodeid):
            raise pytest.UsageError(
                f"{item.nodeid} is named by an address, so workers would not agree about it"
            )
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_shared_server(item) or item.nodeid.partition("::")[0]))


def _shared_server(item) -> str:
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs if info else {}
    return next((name for name in ("mesh", "real_triton") if _of_the_session(definitions.get(name))), "")


def _of_the_session(found) -> bool:
    return bool(found) and found[-1].scope == "session"
