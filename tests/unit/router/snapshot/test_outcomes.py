"""Counts for the config service: in messages of bounded size, and kept until they are sent."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.rpc.channel import open_channel
from services.common.rpc.server import DEFAULT_MAX_MESSAGE_BYTES
from services.router.snapshot import outcomes as outcomes_module
from services.router.snapshot.config_client import ConfigClient
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.outcomes import OutcomeCounts
from tests.fakes.manual_clock import ManualClock


def counted(counts: OutcomeCounts) -> dict[str, int]:
    """All counts that are taken, by tenant."""
    found: dict[str, int] = {}
    while (report := counts.take()) is not None:
        for count in report.counts:
            found[count.tenant_uid] = found.get(count.tenant_uid, 0) + count.requests
    return found


def test_reports_fit_into_messages_and_lose_nothing():
    counts = OutcomeCounts()
    for tenant in range(outcomes_module._MAX_COUNTS + 1):
        counts.count(f"{tenant:036}", 2**31, "CANCELLED_BY_CALLER")
    report = counts.take()
    assert report is not None
    message = pb.StreamSnapshotsRequest(outcomes=report)
    assert message.ByteSize() < DEFAULT_MAX_MESSAGE_BYTES / 2
    # The oldest come first, so that none waits for ever.
    assert report.counts[0].tenant_uid == f"{0:036}"
    counts.put_back(report)
    assert len(counted(counts)) == outcomes_module._MAX_COUNTS


def test_what_is_put_back_is_added_to_what_came_meanwhile():
    counts = OutcomeCounts()
    counts.count("a", 1, "ok")
    report = counts.take()
    assert report is not None
    counts.count("a", 1, "ok")
    counts.put_back(report)
    assert counted(counts) == {"a": 2}


class BrokenCall:
    async def write(self, message: object) -> None:
        raise ConnectionError


async def test_a_report_that_is_not_sent_is_kept():
    counts = OutcomeCounts()
    counts.count("a", 1, "ok")
    async with open_channel("unix:/nowhere") as channel:
        client = ConfigClient(
            channel,
            router="r",
            state=ConfigState(ManualClock()),
            load_text_model=lambda *_: pytest.fail("nothing is loaded"),
            on_snapshot=lambda snapshot: None,
            outcomes=counts,
            metrics=ConfigMetrics(CollectorRegistry()),
        )
        with pytest.raises(ConnectionError):
            await client._report(BrokenCall())
    assert counted(counts) == {"a": 1}
