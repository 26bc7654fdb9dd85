"""What only a terminal sees: questions and colours. The real command, on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

DEADLINE_SECONDS = 60.0
DOCUMENT = "tenant: acme\nconfig:\n  models: [{alias: smollm2, base_model: models/smollm2}]\n  weight: 9\n"


@dataclass
class Terminal:
    """Runs `tenantry` on a terminal and answers its question once."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, question: str, answer: str | signal.Signals) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        program = [sys.executable, "-c", "from services.cli.main import main; main()", *arguments]
        process = subprocess.Popen(
            program, stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment, close_fds=True
        )
        os.close(theirs)
        try:
            shown = self._read(ours, question)
            if isinstance(answer, signal.Signals):
                process.send_signal(answer)
            elif question in shown:
                os.write(ours, answer.encode() + b"\n")
            shown += self._read(ours, "\x00")
            return process.wait(DEADLINE_SECONDS), shown
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    def _read(self, ours: int, until: str) -> str:
        """What is shown until a text has come, or the command has ended."""
        shown, end = b"", time.monotonic() + DEADLINE_SECONDS
        while until.encode() not in shown:
            ready, _, _ = select.select([ours], [], [], max(end - time.monotonic(), 0))
            assert ready, f"nothing more came after {shown!r}"
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # Linux says so when the other side is closed.
                break
            if not piece:
                break
            shown += piece
        return shown.decode()


@pytest.fixture
def terminal(mesh):
    # A terminal of its own, whatever surrounds the tests.
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return Terminal(
        {**inherited, "TERM": "xterm-256color", "COLUMNS": "100", "TENANTRY_STATE_DIR": str(mesh.state_dir)}
    )


def test_a_plan_is_in_colour_and_applied_only_after_a_yes(terminal, admin, tmp_path):
    admin.add_tenant("acme")
    file = tmp_path / "acme.yaml"
    file.write_text(DOCUMENT)
    arguments = ("tenant", "apply", "-f", str(file))
    status, shown = terminal(*arguments, question="Type yes to go on:", answer="no")
    assert status == 1
    assert "\x1b[33mupdate\x1b[0m" in shown
    assert "\x1b[32m9" in shown
    assert not admin.changes
    status, shown = terminal(*arguments, question="Type yes to go on:", answer="yes")
    assert status == 0
    assert admin.tenants["tenants/acme"].config.weight == 9


def test_a_tenant_is_deleted_only_by_who_types_its_name(terminal, shell, admin):
    admin.add_tenant("acme")
    shell("tenant", "suspend", "acme")
    arguments = ("tenant", "delete", "acme")
    status, _ = terminal(*arguments, question="Type acme to go on:", answer="yes")
    assert status == 1
    assert "tenants/acme" in admin.tenants
    status, _ = terminal(*arguments, question="Type acme to go on:", answer="acme")
    assert status == 0
    assert not admin.tenants


def test_ctrl_c_at_a_question_ends_the_command_and_changes_nothing(terminal, shell, admin):
    admin.add_tenant("acme")
    shell("tenant", "suspend", "acme")
    status, shown = terminal("tenant", "delete", "acme", question="Type acme to go on:", answer=signal.SIGINT)
    assert status == 130
    assert shown.splitlines()[-1] == "\x1b[1;31mError: nothing was changed.\x1b[0m"
    assert "tenants/acme" in admin.tenants
