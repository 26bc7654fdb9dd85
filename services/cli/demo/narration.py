"""What `tenantry up` says: steps for machines, a log, a table and hints for people."""

from __future__ import annotations

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
from services.local.profile import Endpoints

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")
_QUIET = {"etcd", "triton", "envoy"}


class Narration:
    """One voice for the whole command."""

    def __init__(self, output: Output, *, verbose: bool) -> None:
        self._output = output
        self._verbose = verbose
        self._colours: dict[str, str] = {}
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def step(self, step: str, *, ok: bool, **details: object) -> None:
        """One thing done, or not done."""
        if self._output.json:
            self._output.record({"step": step, "ok": ok, **details})

    @contextmanager
    def doing(self, step: str) -> Iterator[dict[str, object]]:
        """A step that is done when the context ends, and not done if it raises; yields its details, to be filled."""
        details: dict[str, object] = {}
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
        """A process's line, beside the results."""
        if self._verbose or name not in _QUIET:
            colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            text = Text.assemble((f"{name:>8} ", colour), one_line(line))
            self._output.progress_console.print(text, soft_wrap=True)

    def bar(self) -> Progress:
        """A bar for the preparation of the model; to be used as a context."""
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
        """The table of what the tenants got, and what to do for those who got nothing.

        Args:
            answers: one a tenant.
            state: the option with which commands find this mesh; empty where they do without.
        """
        for answer in answers:
            self.step("answer", ok=isinstance(answer, Answer), **asdict(answer))
        if self._output.json:
            return
        table = Table(title="Three tenants, one question")
        for column in ("tenant", "adapter", "config version", "first token", "tokens/s", "answer"):
            table.add_column(column, overflow="fold")
        for answer in answers:
            table.add_row(answer.tenant, *_cells(answer))
        self._output.progress_console.print(table)
        for answer in answers:
            if isinstance(answer, NoAnswer):
                if answer.command:
                    self._output.suggest(
                        f"{answer.tenant} got no answer. {answer.next}", answer.command + state
                    )
                else:
                    self._output.note(f"{answer.tenant} got no answer. {answer.next}", "yellow")

    def verified(self, entries: int) -> None:
        """The exported log is whole."""
        self._output.note(
            f"One audit log exported and verified offline: {entries} entries, none missing.", "green"
        )

    def where(self, endpoints: Endpoints, state: str = "") -> None:
        """Where the mesh is and what to try; `state` as for `answers`."""
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
        str(answer.config_version),
        f"{answer.first_token_ms:.0f} ms",
        f"{answer.tokens_per_second:.1f}",
        Text(one_line(answer.text)),
    )
