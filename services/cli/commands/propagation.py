"""How far a change has come: one line once every router applied it, or the names of those that have not."""

from __future__ import annotations

from tenantry.config.v1.config_admin_service_pb2 import WaitForPropagationResponse
from tenantry.config.v1.router_status_pb2 import RouterState, RouterStatus

from services.cli.clients.admin import AdminClient
from services.cli.commands.change_options import Waiting
from services.cli.documents import to_plain
from services.cli.terminal.output import Output
from services.cli.terminal.wording import counted, when_exactly
from services.common.command_errors import CommandError

NEWEST_REVISION = 0
"""Of whatever there is when the service is asked."""
# The service answers before the call's own deadline, which leaves that answer time to arrive.
_ANSWER_SECONDS = 0.5


async def await_routers(admin: AdminClient, output: Output, revision: int, waiting: Waiting) -> None:
    """Wait for a change that was made, if that was asked for, and say how far it has come.

    Raises:
        CommandError: not every router has applied it; names those.
        Error: the call failed; the change itself stays made.
    """
    if not waiting.wait:
        return
    progress = await admin.routers.wait_for(revision, waiting.wait_seconds + _ANSWER_SECONDS)
    if output.json:
        output.record(_record(progress))
    if not progress.complete:
        raise CommandError(
            f"{_reached(progress)}.",
            "The change itself is made: a router that is out of reach gets it when it is back, one that refused it "
            "serves what it had before. See `tenantry router list`.",
            [(router.router, standing(router)) for router in progress.missing],
        )
    if not output.json:
        output.line(
            _reached(progress) if progress.applied_routers else "in force; no router is connected yet"
        )


def standing(router: RouterStatus) -> str:
    """Where a router stands, in a few words."""
    if router.state == RouterState.ROUTER_STATE_REFUSED:
        why = "; ".join(router.reasons)
        return f"refused revision {router.refused_revision}" + (f": {why}" if why else "")
    if router.state == RouterState.ROUTER_STATE_UNREACHABLE:
        heard = when_exactly(router.heard_time)
        return "out of reach" + (f", last heard {heard}" if heard else "")
    if router.state == RouterState.ROUTER_STATE_APPLYING:
        return "has not answered yet"
    return ""


def _reached(progress: WaitForPropagationResponse) -> str:
    applied = progress.applied_routers
    known = counted(applied + len(progress.missing), "router")
    return (
        f"in force at {applied} of {known}" if progress.complete else f"in force at only {applied} of {known}"
    )


def _record(progress: WaitForPropagationResponse) -> dict[str, object]:
    return {
        "revision": progress.revision,
        "complete": progress.complete,
        "applied_routers": progress.applied_routers,
        "missing": [to_plain(router) for router in progress.missing],
    }
