"""`tenantry up`: runs the whole mesh on this machine, with three demo tenants."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.given_text import expanded
from services.cli.settings import read_settings
from services.cli.terminal.lasting_streams import lasting_streams
from services.cli.terminal.output import Output
from services.common.command_errors import INTERRUPTED_STATUS, CommandError
from services.local.layout import open_layout
from services.local.mesh_ports import HIGHEST_FIRST_PORT, USUAL_PORT, PortChoice
from services.local.needs import missing_needs


def up(
    *,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The directory that keeps everything.")
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Start, answer, export and verify a log, stop; 0 if all worked.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a step.")] = False,
    routers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Router processes.")] = 1,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=HIGHEST_FIRST_PORT,
            metavar="N",
            help="The tenants' port; operators get the next one, metrics those after it. "
            f"Default: those of the last start, at first from {USUAL_PORT} on; taken ones are replaced.",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every process's every log line.")] = False,
) -> None:
    """Run etcd, Triton, Envoy and our services here, with three tenants that answer."""
    # A mesh that others use goes on when `| head` ends or a terminal is closed.
    with lasting_streams():
        output = Output(json=json)
        settings = read_settings()
        settled = expanded(state_dir) if state_dir else settings.state_path
        output.note(f"Starting a mesh in {'a new folder' if ephemeral else settled}. Ctrl-C stops it.")
        _require_needs(output, settings.etcd_binary)
        # After the check: these import the packages it looked for.
        from services.cli.demo.narration import Narration  # noqa: PLC0415
        from services.cli.demo.run import RunOptions, run  # noqa: PLC0415

        with (
            _kept_in(settled, explicit=state_dir is not None, ephemeral=ephemeral) as (folder, models_dir),
            open_layout(folder, models_dir) as layout,
        ):
            kept = not ephemeral
            ports = PortChoice(port, layout.ports_path if kept else None) if kept or port else None
            options = RunOptions(once, routers, ports, settings.etcd_binary)
            narration = Narration(output, verbose=verbose)
            interrupted = asyncio.run(
                _until_signal(
                    lambda hurry: run(layout, options, narration, hurry),
                    lambda: output.note("Stopping … A second Ctrl-C ends it at once."),
                )
            )
        if interrupted:
            output.note("Stopped. Nothing is left running.")
    if interrupted and once:
        raise typer.Exit(INTERRUPTED_STATUS)


def _require_needs(output: Output, etcd_binary: Path | None) -> None:
    missing = missing_needs(etcd_binary)
    if output.json:
        output.record({"step": "needs", "ok": not missing, "missing": missing})
    if missing:
        raise CommandError(
            "this machine cannot run the mesh: something is missing.", details=[("", one) for one in missing]
        )


@contextmanager
def _kept_in(state_dir: Path, *, explicit: bool, ephemeral: bool) -> Iterator[tuple[Path, Path | None]]:
    """The state directory of this run, and the directory of prepared models if that is another."""
    if not ephemeral:
        yield state_dir, None
        return
    prepared = state_dir / "models"
    if explicit:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix="tenantry-", dir=state_dir if explicit else None))
    try:
        yield folder, prepared if prepared.is_dir() else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _until_signal(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]], stopping: Callable[[], None] = lambda: None
) -> bool:
    """Run until the work ends or a signal stops it.

    Args:
        work: is cancelled by the first signal; a second one sets the event it is given.
        stopping: called at the first signal.

    Returns:
        Whether a signal stopped it.
    """
    hurry = asyncio.Event()
    task = asyncio.create_task(work(hurry))
    asked = False

    def ask(number: signal.Signals) -> None:
        nonlocal asked
        if not asked:
            asked = True
            stopping()
            task.cancel()
        elif number != signal.SIGHUP:  # A closed terminal sends two: its own and the shell's.
            hurry.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        nohup = number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
        if not nohup:
            loop.add_signal_handler(number, ask, number)
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
    return asked
