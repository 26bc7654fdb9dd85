"""A disk that fails: the audit service ends at once, and what was not synced is never acknowledged.

`python -m` of this file is the process under test: the service as it is, over a disk that fails when told to.
"""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from services.audit.main import main as serve
from services.audit.storage import journal
from tests.fakes.audit_service import AuditServicePlane, BareStream, append_entry

pytestmark = pytest.mark.integration
FAULT, TRIGGER = "AUDIT_TEST_FAULT", "AUDIT_TEST_TRIGGER"
FSYNC_FAILED, WRITE_FAILED = 74, 75


def main() -> None:
    """Serve, until the trigger file is there; from then on one call of the kernel fails."""
    fault, trigger = os.environ[FAULT], Path(os.environ[TRIGGER])
    name = "fdatasync" if fault == "mutant" else fault
    real = getattr(os, name)

    def failing(*arguments):
        if trigger.exists():
            raise OSError(errno.EIO, "injected")
        return real(*arguments)

    setattr(os, name, failing)
    if fault == "mutant":
        vars(journal)["sync_data"] = _shrug
    serve()


def _shrug(descriptor: int) -> None:
    """What a service does that takes an error of fsync for a hiccup."""
    try:
        os.fdatasync(descriptor)
    except OSError:
        return


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("a")


def faulty(folder: Path, fault: str) -> AuditServicePlane:
    environment = {FAULT: fault, TRIGGER: str(folder / "trigger")}
    return AuditServicePlane(folder, "tests.integration.test_audit_disk_faults", **environment)


async def acked_after(plane: AuditServicePlane, break_disk, tenant_uid: str = "acme", text: str = "x") -> int:
    """Acks of 20 entries sent once the disk is broken; 20 before it were acknowledged."""
    async with BareStream(plane.append_target) as stream:
        await stream.send([append_entry(number, "acme") for number in range(1, 21)])
        await stream.until(lambda: len(stream.receipts) == 20)
        assert len(stream.receipts) == 20
        break_disk()
        await stream.send([append_entry(number, tenant_uid, text) for number in range(21, 41)])
        await stream.until(lambda: len(stream.receipts) == 40)
        return len(stream.receipts) - 20


async def sizes(folder: Path, tmp_path: Path) -> int:
    """The number of entries that a healthy service shows of the same state, the log's own left out."""
    async with AuditServicePlane(folder) as plane:
        exported = await plane.export("acme", tmp_path / "bundle")
        assert exported.report.good, exported.report.damages
        return int(exported.report.counts["admit"])


async def test_an_error_of_fdatasync_ends_the_process_and_acknowledges_nothing(folder, tmp_path):
    async with faulty(folder, "fdatasync") as plane:
        assert await acked_after(plane, (folder / "trigger").touch) == 0
        assert await plane.exit_status() == FSYNC_FAILED
        assert f"errno {errno.EIO}" in plane.log_file.read_text()
    # The kernel may have kept them or not: whole batches either way.
    assert await sizes(folder, tmp_path) in (20, 40)


async def test_that_test_notices_a_service_that_goes_on_after_the_error(folder):
    async with faulty(folder, "mutant") as plane:
        assert await acked_after(plane, (folder / "trigger").touch) == 20


async def test_an_error_of_a_folders_fsync_ends_the_process_and_acknowledges_nothing(folder, tmp_path):
    async with faulty(folder, "fsync") as plane:
        # A new tenant's log begins with new files.
        assert await acked_after(plane, (folder / "trigger").touch, "globex") == 0
        assert await plane.exit_status() == FSYNC_FAILED
    assert await sizes(folder, tmp_path) == 20


async def test_a_journal_file_that_takes_no_more_bytes_ends_the_process(folder, tmp_path):
    """The kernel's own limit of a file's length: it writes as far as there is room, then refuses, like a full disk."""
    async with AuditServicePlane(folder) as plane:
        _, hard = resource.prlimit(plane.pid, resource.RLIMIT_FSIZE)

        def fill() -> None:
            resource.prlimit(plane.pid, resource.RLIMIT_FSIZE, (256 << 10, hard))

        assert await acked_after(plane, fill, text="long " * 20_000) == 0
        assert await plane.exit_status() == WRITE_FAILED
        assert f"errno {errno.EFBIG}" in plane.log_file.read_text()
    assert await sizes(folder, tmp_path) == 20


async def test_no_room_for_a_journal_file_ends_the_process_and_a_later_start_goes_on(folder, tmp_path):
    async with AuditServicePlane(folder) as plane:
        _, hard = resource.prlimit(plane.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(plane.pid, resource.RLIMIT_FSIZE, (256 << 10, hard))
        async with BareStream(plane.append_target) as stream:
            await stream.send([append_entry(1, "acme")])
            await stream.until_ended()
            assert stream.acks == {}
        assert await plane.exit_status() == WRITE_FAILED
    async with AuditServicePlane(folder) as plane:
        assert await acked_after(plane, lambda: None) == 20
    assert await sizes(folder, tmp_path) == 40


if __name__ == "__main__":
    main()
