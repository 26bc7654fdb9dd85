"""Shows how `tenantry up` goes: steps for programs; steps, log lines, a table and hints for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from services.cli.demo.answer import Answer, NoAnswer
from services.cli.terminal.output import Output
from services.cli.visible_text import one_line
from services.common.command_errors import CommandError
from services.common.errors import Error
from services.local.mesh_ports import MovedPort
from services.local.profile import Endpoints

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")
_QUIET = {"etcd", "triton", "envoy"}
_BEGINNINGS = {
    "start": "Starting etcd, Envoy, the services and the model server …",
    "provision": "Checking the three demo tenants …",
    "triton": "Waiting for the model …",
    "export": "Exporting one tenant's audit log …",
    "verify": "Verifying it offline …",
}
# A line of our services (`services.common.logs`).
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT(?P<clock>\d\d:\d\d:\d\d)\S* (?P<level>[A-Z]+) \S+ (?P<message>.*)")
_LISTENERS = ("tenant", "operations")
_LEVEL_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


class Narration:
    """Shows the progress of one run."""

    def __init__(self, output: Output, *, verbose: bool) -> None:
        self._output = output
        self._verbose = verbose
        self._colours: dict[str, str] = {}
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._asking = False

    def step(self, step: str, *, ok: bool, **details: object) -> None:
        """Report a step, done or failed."""
        if self._output.json:
            self._output.record({"step": step, "ok": ok, **details})

    @contextmanager
    def doing(self, step: str) -> Iterator[dict[str, object]]:
        """Say that a step begins, and report it when the context ends; yields the details to report."""
        details: dict[str, object] = {}
        if step in _BEGINNINGS:
            self._output.note(_BEGINNINGS[step])
        try:
            yield details
        except Error as error:
            self.step(step, ok=False, reason=error.reason.value, message=error.message, **details)
            raise
        except CommandError as error:
            self.step(step, ok=False, reason="COMMAND_FAILED", message=error.message, **details)
            raise
        self.step(step, ok=True, **details)

    def log(self, name: str, line: str) -> None:
        """Show a line of a process, shortened and wrapped on a terminal; the log files have it whole."""
        if not self._verbose and (name in _QUIET or self._is_expected(line)):
            return
        style = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        console = self._output.progress_console
        if not console.is_terminal:
            console.print(Text(f"{name:>8} {one_line(line)}"), soft_wrap=True)
            return
        found = _LOG_LINE.match(line)
        clock, level, message = found.group("clock", "level", "message") if found else ("", "", line)
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(style="dim", width=8)
        row.add_column(style=style, min_width=8)
        row.add_column(overflow="fold")
        row.add_row(clock, name, Text(one_line(message), style=_LEVEL_STYLES.get(level, "")))
        console.print(row)

    @contextmanager
    def asking(self, question: str) -> Iterator[None]:
        """Show the question. Until the context ends a router's refusals are not shown.

        The demo asks again until the model server answers and each tenant's config is in force.
        """
        self._output.note(f"Asking each tenant: {question}")
        self._asking = True
        try:
            yield
        finally:
            self._asking = False

    def _is_expected(self, line: str) -> bool:
        return self._asking and " failed: " in line

    def bar(self) -> Progress:
        """A progress bar for the preparation of the model. Use it as a context."""
        shown = self._output.progress_console.is_terminal and not self._output.json
        self._progress = Progress(console=self._output.progress_console, transient=True, disable=not shown)
        return self._progress

    def prepared(self, step: str, done: int, total: int) -> None:
        """Progress of the model's preparation; may be called from another thread."""
        if self._progress is not None:
            if step not in self._tasks:
                self._tasks[step] = self._progress.add_task(f"model: {step}", total=total)
            self._progress.update(self._tasks[step], completed=done, total=total, visible=done < total)

    def answers(self, answers: Sequence[Answer | NoAnswer], state: str = "") -> None:
        """Show the tenants' answers as a table, and for each tenant without one what to do.

        Args:
            answers: one a tenant.
            state: the option that lets commands find this mesh; empty if they need none.
        """
        for answer in answers:
            self.step("answer", ok=isinstance(answer, Answer), **asdict(answer))
        if self._output.json:
            return
        table = Table(box=None, pad_edge=False, padding=(1, 2, 0, 0), header_style="bold")
        for column in ("TENANT", "ADAPTER", "CONFIG", "FIRST TOKEN", "TOKENS/S", "ANSWER"):
            table.add_column(column, overflow="fold")
        for answer in answers:
            table.add_row(answer.tenant, *_cells(answer))
        self._output.progress_console.print(table)
        self._output.note("")
        for answer in answers:
            if isinstance(answer, NoAnswer):
                if answer.command:
                    self._output.suggest(
                        f"{answer.tenant} got no answer. {answer.next}", answer.command + state
                    )
                else:
                    self._output.note(f"{answer.tenant} got no answer. {answer.next}", "yellow")

    def verified(self, entries: int) -> None:
        """Say that the exported log is whole."""
        self._output.note(
            f"One audit log exported and verified offline: {entries} entries, none missing.", "green"
        )

    def moved_ports(self, moved: Sequence[MovedPort]) -> None:
        """Warn of ports that other programs have: clients that were set up for them would reach those programs."""
        for port in moved:
            self.step("port moved", ok=True, **asdict(port))
        listeners = [port for port in moved if port.name in _LISTENERS]
        for port in listeners:
            by = port.holder or "another program"
            self._warn(f"Port {port.wanted} is taken by {by}: the {port.name} port is {port.taken}.")
        others = ", ".join(f"{port.name} {port.taken}" for port in moved if port not in listeners)
        if others:
            self._warn(f"Ports of less use were taken, too. In their place: {others}.")
        if moved:
            self._warn("The mesh keeps these ports at its next start. `tenantry up --port N` chooses others.")

    def _warn(self, text: str) -> None:
        self._output.note(text, "bold yellow")

    def where(self, endpoints: Endpoints, state: str = "") -> None:
        """Show the addresses of the mesh and two commands to try; `state` as for `answers`."""
        self._output.note(
            f"tenants    {endpoints.tenant_address}  (TLS, CA {endpoints.ca_path})", style="bold"
        )
        self._output.note(f"operators  {endpoints.operations_address}", style="bold")
        if endpoints.metrics:
            self._output.note(f"metrics    with the bearer token in {endpoints.metrics_token_path}")
        for name, address in endpoints.metrics.items():
            self._output.note(f"metrics    http://{address}/metrics  ({name})")
        self._output.suggest("Talk to one", f"tenantry chat --tenant globex{state}")
        self._output.suggest("See who is there", f"tenantry tenant list{state}")
        self._output.note("Ctrl-C stops everything.")


def _cells(answer: Answer | NoAnswer) -> tuple[str | Text, ...]:
    if isinstance(answer, NoAnswer):
        return "", "", "", "", Text(one_line(f"none: {answer.message}"), style="yellow")
    return (
        answer.adapter or "(base)",
        f"v{answer.config_version}",
        f"{answer.first_token_ms:.0f} ms",
        f"{answer.tokens_per_second:.1f}",
        Text(one_line(answer.text)),
    )
