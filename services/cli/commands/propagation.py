"""Waits for a change to reach the routers: says when every router has applied it, or names those that have not."""

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
"""The newest revision at the time of the call."""
# The service answers so long before the call's deadline, so that the answer arrives in time.
_ANSWER_SECONDS = 0.5


async def await_routers(admin: AdminClient, output: Output, revision: int, waiting: Waiting) -> None:
    """With --wait, wait until every router has applied a change, and say so.

    Raises:
        CommandError: names the routers that have not applied it.
        Error: the call failed. The change stays made.
    """
    if not waiting.wait:
        return
    progress = await admin.routers.wait_for(revision, waiting.wait_seconds + _ANSWER_SECONDS)
    if output.json:
        output.record(_record(progress))
    if not progress.complete:
        raise CommandError(
            f"{_reached(progress)}.",
            "The change is made. A router that is out of reach applies it when it is back; a router that refused it "
            "serves its config of before. See `tenantry router list`.",
            [(router.router, standing(router)) for router in progress.missing],
        )
    if not output.json:
        output.line(
            _reached(progress) if progress.applied_routers else "in force; no router is connected yet"
        )


def standing(router: RouterStatus) -> str:
    """The state of a router, in a few words."""
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
