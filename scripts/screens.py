"""Capture what `tenantry` looks like: docs/screens/*.txt, on terminals of 80 and of 160 columns.

Needs tmux. Starts a mesh in a folder of its own, types the commands a newcomer types, and keeps what the terminal
shows. Times, ports, ids, digests and speeds are replaced, so that a second run changes a file only where the command
changed, or what the model says.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCREENS = ROOT / "docs" / "screens"
WIDTHS = (80, 160)
LINES = 60
DEADLINE_SECONDS = 240.0
PROMPT = "$ "
GUARDRAIL = "  guardrails: [{rule_id: no-passwords, action: GUARDRAIL_ACTION_DENY, pattern: '(?i)password'}]"

# A pattern and what it becomes, in this order.
VOLATILE: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\d( |T)\d\d:\d\d:\d\d(\.\d+)?Z", "2026-01-31 12:00:00Z"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\dZ", "2026-01-31 12:00Z"),
    (r"\b20\d\d-\d\d-\d\d\b", "2026-01-31"),
    (r"\b\d\d:\d\d:\d\d\b", "12:00:00"),
    (r"\b[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\b", "01234567-89ab-4cde-8f01-0123456789ab"),
    (r"\b[0-9a-f]{32}\b", "0123456789abcdef0123456789abcdef"),
    (r"\b[0-9a-f]{16}\b", "0123456789abcdef"),
    (r"revision \d+", "revision 12"),
    (r"token(\s)\d+ ms", r"token\g<1>210 ms"),
    (r"\b\d+\.\d tokens/s", "21.0 tokens/s"),
    (r"audit #\d+", "audit #7"),
    (r"\b\d+(\s)entries", r"40\g<1>entries"),
    (r"line \d+ shows", "line 5 shows"),
)
# The speeds in a row of the first answers; they keep their places.
SPEEDS = re.compile(r"(?<= )(\d+ ms +)(\d+\.\d +)(?=\S)")


@dataclass(frozen=True)
class Screen:
    """The lines typed for one screen, after lines that prepare it and are not shown."""

    name: str
    typed: tuple[str, ...]
    before: tuple[str, ...] = ()


SESSIONS = (
    Screen("help", ("tenantry --help",)),
    Screen("chat", ("tenantry chat --tenant globex", "What is gravity?", "And who found it?", "/quit")),
    Screen(
        "plan",
        ("tenantry tenant apply -f tenants/ --dry-run",),
        (
            "tenantry tenant export -o tenants/",
            "sed -i 's/^config:/config:\\n  weight: 5\\n  system_prompt: You are a poet./' tenants/acme.yaml",
            "sed 's/acme/umbrella/; s/Acme/Umbrella/' tenants/acme.yaml > tenants/umbrella.yaml",
        ),
    ),
    Screen(
        "refusal",
        (
            "tenantry chat --tenant initech 'What is my password?'",
            "tenantry tenant update acme --weight 0",
            "tenantry tenant create acme",
        ),
        (
            "tenantry tenant export -o tenants/",
            f'echo "{GUARDRAIL}" >> tenants/initech.yaml',
            "tenantry tenant apply -f tenants/initech.yaml --yes --wait",
        ),
    ),
    Screen(
        "verify-failed",
        ("tenantry audit verify acme-audit",),
        (
            "tenantry audit grant acme --out acme.grant",
            "tenantry audit export acme --out acme-audit --grant-file acme.grant",
            "sed -i 's/capital/capitol/' acme-audit/records.jsonl",
        ),
    ),
    Screen(
        "operator-log",
        ("tenantry operator log --since 1h --call SuspendTenant", "tenantry key list acme"),
        (
            "tenantry tenant suspend acme --reason 'leaked key, ticket 7'",
            "tenantry tenant resume acme",
            "tenantry key create acme --reason 'for the batch job' --out batch.key",
        ),
    ),
)

_NUMBERS = itertools.count(1)


class Terminal:
    """A terminal of a given width, in a tmux of its own."""

    def __init__(self, width: int, folder: Path, environment: dict[str, str]) -> None:
        self._server = f"tenantry-screens-{os.getpid()}-{next(_NUMBERS)}"
        self._environment = environment
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(LINES), "-c", str(folder),
            f"PS1='{PROMPT}' exec bash --norc --noprofile",
        )  # fmt: skip
        self._tmux("set-option", "-g", "history-limit", "2000")
        self.until(lambda shown: shown.endswith(PROMPT.strip()))

    def _tmux(self, *arguments: str) -> str:
        finished = subprocess.run(
            ["tmux", "-L", self._server, *arguments],
            check=True, capture_output=True, text=True, env=self._environment,
        )  # fmt: skip
        return finished.stdout

    def shown(self) -> str:
        """The text on the screen and above it, without the empty end."""
        return self._tmux("capture-pane", "-p", "-S", "-").rstrip()

    def key(self, name: str) -> None:
        """Press a key, for example `C-c`."""
        self._tmux("send-keys", name)

    def type(self, line: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", line)
        self.key("Enter")

    def until(self, holds: Callable[[str], bool]) -> str:
        """The screen once a condition holds; fails after the deadline."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not holds(shown := self.shown()):
            if time.monotonic() > end:
                sys.exit(f"this did not come to an end:\n{shown}")
            time.sleep(0.2)
        return shown

    def clear(self) -> None:
        """Begin an empty screen."""
        self.type("clear")
        self.until(lambda shown: shown == PROMPT.strip())
        self._tmux("clear-history")

    def close(self) -> None:
        """End the terminal and what runs in it."""
        self._tmux("kill-server")


def idle(shown: str) -> bool:
    """Whether the shell, or a conversation, waits for a line."""
    return re.fullmatch(r"\$|[\w-]+>", shown.rsplit("\n", 1)[-1].strip()) is not None


def _answered(lines_before: int, shown: str) -> bool:
    return idle(shown) and shown.count("\n") > lines_before


def run(terminal: Terminal, lines: Iterable[str]) -> str:
    """Type lines, each when the one before has been answered; what is shown at the end."""
    shown = terminal.shown()
    for line in lines:
        typed = shown.count("\n")
        terminal.type(line)
        shown = terminal.until(functools.partial(_answered, typed))
    return shown


def normalised(shown: str, folder: Path) -> str:
    """The screen without what changes from run to run."""
    text = shown.replace(str(folder), "~").replace(str(ROOT), "~/tenantry")
    for pattern, replacement in VOLATILE:
        text = re.sub(pattern, replacement, text)
    text = SPEEDS.sub(lambda row: "210 ms".ljust(len(row[1])) + "21.0".ljust(len(row[2])), text)
    lines = [line.rstrip() for line in text.splitlines()]
    # How many revisions a router applies in one step varies.
    lines = [
        line for at, line in enumerate(lines) if not at or line != lines[at - 1] or "revision" not in line
    ]
    if lines and lines[-1] == PROMPT.strip():
        lines.pop()
    return "\n".join(lines) + "\n"


def capture(width: int, folder: Path) -> dict[str, str]:
    """Every screen at one width."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "tenantry").symlink_to(ROOT / ".venv" / "bin" / "tenantry")
    environment = {
        "HOME": str(folder),
        "PATH": f"{programs}:{os.defpath}",
        "LANG": "C.UTF-8",
        "TENANTRY_STATE_DIR": str(folder / "state"),
        "TERM": "xterm-256color",
        "HISTFILE": "",
    }
    work = folder / "work"
    work.mkdir()
    found: dict[str, str] = {}
    mesh = Terminal(width, work, environment)
    try:
        mesh.clear()
        mesh.type("tenantry up")
        mesh.until(lambda shown: shown.endswith("Ctrl-C stops everything."))
        found |= _sessions(width, work, environment)
        mesh.key("C-c")
        found["start"] = mesh.until(idle)
    finally:
        mesh.close()
    return {name: normalised(shown, folder) for name, shown in found.items()}


def _sessions(width: int, work: Path, environment: dict[str, str]) -> dict[str, str]:
    found = {}
    for screen in SESSIONS:
        terminal = Terminal(width, work, environment)
        try:
            run(terminal, screen.before)
            terminal.clear()
            found[screen.name] = run(terminal, screen.typed)
        finally:
            terminal.close()
    return found


def main() -> None:
    """Capture all screens, or those of one width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, action="append", help="only this width; may be repeated")
    parser.add_argument("--out", type=Path, default=SCREENS)
    parser.add_argument("--usual-network", action="store_true", help="not in a network of its own")
    arguments = parser.parse_args()
    if shutil.which("tmux") is None:
        sys.exit("tmux is not installed")
    if not arguments.usual_network:
        # There the usual ports are free.
        program = f"ip link set lo up && exec {shlex.join([sys.executable, *sys.argv, '--usual-network'])}"
        sys.exit(
            subprocess.run(
                ["unshare", "--map-root-user", "--net", "sh", "-c", program], check=False
            ).returncode
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    for width in arguments.width or WIDTHS:
        with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
            for name, text in capture(width, Path(folder)).items():
                (arguments.out / f"{name}-{width}.txt").write_text(text)


if __name__ == "__main__":
    main()
