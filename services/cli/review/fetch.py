"""Fetches one log from the audit service into a folder, and pins its public keys."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from rich.progress import FileSizeColumn, Progress, SpinnerColumn, TextColumn

from services.cli.clients.review import ReviewClient
from services.cli.mesh import Mesh
from services.cli.review.bundle_folder import BundleFolder
from services.cli.review.pins import check_pin
from services.cli.terminal.output import Output


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle on disk. It is not verified yet."""

    files: int
    size_bytes: int
    pin: Path
    """The log's pinned keys."""
    is_new_pin: bool
    """Whether the keys were pinned just now."""


async def fetch_log(
    mesh: Mesh, grant: str, tenant_uid: str, out: Path, output: Output, timeout_seconds: float
) -> Fetched:
    """Export a log into a folder, whole or not at all.

    Args:
        mesh: says where the review service is, and where keys are pinned.
        grant: opens the log.
        tenant_uid: whose log.
        out: an empty folder, or none yet.
        output: shows the progress.
        timeout_seconds: for the whole export.

    Raises:
        UsageError: `out` holds something.
        CommandError: the log's keys are not the pinned ones, or the bundle cannot be written.
        Error: the service refused.
    """
    async with mesh.review(grant) as review:
        keys = await review.get_verification_keys(tenant_uid)
        pin, is_new = check_pin(mesh.state_dir, tenant_uid, keys)
        with BundleFolder(out) as folder:
            await _receive(review, tenant_uid, folder, output, timeout_seconds)
            folder.finish()
    return Fetched(folder.files, folder.size_bytes, pin, is_new)


async def _receive(
    review: ReviewClient, tenant_uid: str, folder: BundleFolder, output: Output, timeout_seconds: float
) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), FileSizeColumn())
    shown = output.progress_console.is_terminal and not output.json
    with Progress(*columns, console=output.progress_console, transient=True, disable=not shown) as progress:
        task = progress.add_task("exporting", total=None)
        pieces = review.export_log(tenant_uid, timeout_seconds=timeout_seconds)
        async with aclosing(pieces):
            async for piece in pieces:
                await asyncio.to_thread(folder.add, piece.path, piece.data, last=piece.last)
                progress.update(task, advance=len(piece.data))
