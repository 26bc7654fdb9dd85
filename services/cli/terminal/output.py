"""Prints: results on stdout, notes, questions and failures on stderr.

Colours appear on terminals only. What a server sent is never interpreted: invisible characters are escaped
(`visible_text`), and rich's markup is off.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.documents import to_json, to_plain, to_yaml
from services.cli.terminal.interruption import interruptible
from services.cli.terminal.word_wrap import WordWrap
from services.cli.visible_text import one_line, prose

# Wide enough for any row: a pipe must get rows that are not cut.
_PIPE_WIDTH = 4096


def quoted(value: object) -> str:
    """The value as one word of a shell's command line."""
    return shlex.quote(str(value))


class Styled(NamedTuple):
    """A cell with a colour, for terminals."""

    text: str
    style: str


Cell = str | Styled


class Output:
    """The output of one command."""

    def __init__(self, *, json: bool, mesh_options: str = "") -> None:
        """Prepare the streams' consoles.

        Args:
            json: whether a program reads.
            mesh_options: what a suggested command needs to find the same mesh; empty where it does without.
        """
        self.json = json
        self._mesh_options = mesh_options
        self._stdout = _console(stderr=False)
        self._stderr = _console(stderr=True)

    @property
    def can_ask(self) -> bool:
        """Whether a person can see a question and answer it."""
        return not self.json and self._stderr.is_terminal and sys.stdin.isatty()

    def ask(self, question: str) -> str:
        """Ask a person; returns the answer without the spaces around it.

        Raises:
            KeyboardInterrupt: the answer was Ctrl-C.
        """
        with interruptible():
            self._stderr.print(Text(one_line(question), style="bold"), end=" ", soft_wrap=True)
            return sys.stdin.readline().strip()

    @property
    def progress_console(self) -> Console:
        """The console for progress, on stderr."""
        return self._stderr

    def result(self, message: Message, *, yaml: bool = True) -> None:
        """One whole resource: YAML for people, one line of JSON for programs."""
        plain = to_plain(message)
        if yaml and not self.json:
            sys.stdout.write(to_yaml(plain))
            sys.stdout.flush()
        else:
            self.record(plain)

    def record(self, value: object) -> None:
        """One line of JSON."""
        sys.stdout.write(to_json(value) + "\n")
        sys.stdout.flush()

    def table(
        self, messages: Sequence[Message], columns: Sequence[str], rows: Iterable[Sequence[Cell]], empty: str
    ) -> None:
        """A listing: an aligned table for people, a line of JSON for each resource for programs.

        Args:
            messages: the resources, for programs.
            columns: headings, for people.
            rows: cells, one row a resource.
            empty: the note that is shown if there are none.
        """
        if self.json:
            for message in messages:
                self.record(to_plain(message))
            return
        if not messages:
            self.note(empty)
            return
        self.rows(columns, rows)

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """An aligned table, for people.

        Args:
            columns: headings.
            rows: as many cells each.
        """
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_cell_text(cell) for cell in row))
        self._stdout.print(table)

    def terms(self, terms: Iterable[tuple[str, str, str]]) -> None:
        """Terms and what they mean, aligned, for people.

        Args:
            terms: a term, its meaning, and a second, dim line below that; empty for none.
        """
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for term, meaning, beside in terms:
            text = Text(one_line(meaning))
            if beside:
                text.append(f"\n{one_line(beside)}", style="dim")
            table.add_row(Text(one_line(term)), text)
        self._stdout.print(table)

    def paragraph(self, text: str) -> None:
        """A text, wrapped between words on a terminal."""
        self._stdout.print(Text(one_line(text)))

    @contextmanager
    def streaming(self) -> Iterator[Callable[[str], None]]:
        """Show an answer piece by piece; on a terminal lines end between words."""
        wrap = WordWrap(self._stdout.width) if self._stdout.is_terminal else None

        def write(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        try:
            yield lambda piece: write(wrap.feed(prose(piece)) if wrap else prose(piece))
        finally:
            if wrap:
                write(wrap.finish())

    def line(self, text: str, style: str = "") -> None:
        """One line of a result."""
        self._stdout.print(Text(one_line(text), style=style), soft_wrap=True)

    def secret(self, secret: str) -> None:
        """A secret alone on stdout, so that it can be redirected."""
        sys.stdout.write(one_line(secret) + "\n")
        sys.stdout.flush()

    def note(self, text: str, style: str = "dim") -> None:
        """A note beside the result; nothing for programs."""
        if not self.json:
            self._stderr.print(Text(one_line(text), style=style))

    def suggest(self, why: str, command: str) -> None:
        """A command to run next, on one line of any length, so that it can be copied.

        Args:
            why: its purpose.
            command: begins with `tenantry`, which is shown as this very process was called.
        """
        if not self.json:
            command = command.replace("tenantry", quoted(_as_called()), 1)
            if "--state-dir" not in command:
                command += self._mesh_options
            self._stderr.print(Text(f"{why}: {one_line(command)}", style="dim"), soft_wrap=True)

    def failure(self, text: str, style: str = "") -> None:
        """A line about a failure, for people and programs alike."""
        self._stderr.print(Text(one_line(text), style=style), soft_wrap=self.json)


def _cell_text(cell: Cell) -> Text:
    if isinstance(cell, Styled):
        return Text(one_line(cell.text), style=cell.style)
    return Text(one_line(cell))


def _as_called() -> str:
    """The name of this program if the PATH finds it, else its path from here."""
    called = Path(sys.argv[0])
    found = shutil.which("tenantry")
    if called.name != "tenantry" or (found and Path(found).resolve() == called.resolve()):
        return "tenantry"
    try:
        return str(called.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(called.resolve())


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)
    )
