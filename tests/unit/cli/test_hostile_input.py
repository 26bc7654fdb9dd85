"""What people and scripts give by accident: each gets one clear line and the documented status, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

COMMAND = f"{sys.executable} -c 'from services.cli.main import main; main()'"
DEADLINE_SECONDS = 100
FAILED, USAGE = 1, 2


@dataclass(frozen=True)
class Case:
    """A line for the shell, in which `tenantry` is the real command, and how it has to end."""

    line: str
    status: int
    says: str = ""
    env: dict[str, str] = field(default_factory=dict)


SHELL_CASES = [
    Case(
        r"printf 'caf\xe9' | tenantry chat", USAGE, "the question on stdin is not UTF-8 text: byte 4 is 0xe9"
    ),
    Case(r"tenantry chat $'caf\xe9'", USAGE, r"argument 2, caf\udce9, is not UTF-8 text"),
    Case(r"tenantry tenant apply -f $'caf\xe9.yaml'", USAGE, "is not UTF-8 text: byte 4 is 0xe9"),
    Case(r"TENANTRY_KEY_FILE=$'caf\xe9' tenantry chat Q", USAGE, "variable TENANTRY_KEY_FILE is not UTF-8"),
    Case(r"TENANTRY_ADDRESS=$'caf\xe9:1' tenantry chat Q", USAGE, "variable TENANTRY_ADDRESS is not UTF-8"),
    Case(
        r"TENANTRY_STATE_DIR= HOME=$'/caf\xe9' tenantry tenant list",
        USAGE,
        "home directory's name is not UTF",
    ),
    Case("tenantry chat <&-", USAGE, "there is no question"),
    Case("tenantry tenant list >&-", USAGE, "stdout is closed"),
    Case("tenantry tenant list --json >&-", USAGE, "stdout is closed"),
    Case("tenantry tenant list 2>&-", 0),
    Case("tenantry tenant list <&- >&- 2>&-", USAGE),
    Case("tenantry tenant list >/dev/full", FAILED, "No space left on device"),
    Case("tenantry tenant get acme >/dev/full", FAILED, "No space left on device"),
    Case("tenantry chat Q >/dev/full", FAILED, "No space left on device"),
    Case("tenantry --version >/dev/full", FAILED, "No space left on device"),
    Case("tenantry --help >/dev/full", FAILED, "No space left on device"),
    Case("tenantry tenant get nobody 2>/dev/full", FAILED),
    Case("set -o pipefail; tenantry tenant list --json | head -0", FAILED),
    Case("env -u TERM tenantry tenant list", 0),
    Case("TERM=dumb tenantry tenant list", 0),
    Case("COLUMNS=1 tenantry --help", 0),
    Case("COLUMNS=0 tenantry tenant --help", 0),
    Case("COLUMNS=-3 tenantry tenant list", 0),
    Case("LC_ALL=C tenantry chat Q", 0),
    Case("PYTHONIOENCODING=ascii tenantry tenant get acme", 0),
    Case("env -i tenantry tenant list", FAILED, "no mesh is running"),
    Case("mkdir gone && cd gone && rmdir ../gone && tenantry tenant list", 0),
    Case("chmod 500 . && tenantry key create acme --out ./no/key", FAILED, "the new key was revoked"),
]


@pytest.fixture
def real_command(mesh, tmp_path):
    """Runs a line of bash with the real command, in a folder of its own."""
    mesh.admin.add_tenant("acme", display_name="Ünïcode")
    here = tmp_path / "here"
    here.mkdir()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "tenantry").write_text(f'#!/bin/bash\nexec {COMMAND} "$@"\n')
    (folder / "tenantry").chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TENANTRY_STATE_DIR": str(mesh.state_dir),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }

    def run(line: str) -> subprocess.CompletedProcess[bytes]:
        # `env -i` takes the PATH and what Python needs away.
        line = line.replace(
            "env -i tenantry", f"env -i PYTHONPATH={environment['PYTHONPATH']} {folder}/tenantry"
        )
        return subprocess.run(
            ["bash", "-c", line],
            check=False, capture_output=True, stdin=subprocess.DEVNULL, cwd=here, env=environment,
            timeout=DEADLINE_SECONDS,
        )  # fmt: skip

    yield run
    here.chmod(0o700)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the lines are bash's")
@pytest.mark.parametrize("case", SHELL_CASES, ids=lambda case: case.line)
def test_the_real_command_ends_with_a_line_and_a_status(real_command, case):
    finished = real_command(case.line)
    said = finished.stderr.decode()
    assert (finished.returncode, "Traceback" in said, "Exception" in said) == (case.status, False, False), (
        said
    )
    assert "has a defect" not in said
    assert case.says in said
    if case.says:
        assert sum(line.startswith("Error: ") for line in said.splitlines()) == 1
        assert len(said.splitlines()) <= 2


@pytest.fixture
def files(tmp_path):
    """Files that are not what they should be."""
    laughs = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]"
        for old, new in zip("abcdefg", "bcdefgh", strict=True)
    ]
    content: dict[str, bytes] = {
        "two.key": b"one\ntwo\n",
        "nul.key": b"a\0b\n",
        "huge.key": b"x" * 5000,
        "latin.key": b"caf\xe9\n",
        "no.pem": b"not a certificate",
        "deep.yaml": b"config: " + b"[" * 3000 + b"]" * 3000,
        "mappings.yaml": b"config: " + b"{a: " * 3000 + b"1" + b"}" * 3000,
        "hundred.yaml": b"config: " + b"[" * 100 + b"]" * 100,
        "surrogate.yaml": rb'display_name: "\ud800"',
        "surrogate-key.yaml": rb'"\ud800": 1',
        "surrogate-inside.yaml": rb'config: {models: [{"\udfff": 1}]}',
        "nul.yaml": b"display_name: a\0b",
        "latin.yaml": b"display_name: caf\xe9",
        "tab.yaml": b"config:\n\tweight: 1",
        "laughs.yaml": "\n".join(laughs).encode(),
        "itself.yaml": b"config: &a\n  models: [*a]",
        "unhashable.yaml": b"{[a]: b}",
        "digits.yaml": b"config: {weight: " + b"9" * 5000 + b"}",
        "number.yaml": b"1: 2",
        "binary.yaml": b"display_name: !!binary aGVsbG8=",
        "python.yaml": b"!!python/object/apply:os.system [true]",
        "list.yaml": b"- a",
        "empty.yaml": b"",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["two.key", "nul.key", "huge.key", "latin.key", ".", "missing.key", "/dev/zero"]
)
def test_a_file_without_a_key_is_a_usage_error(shell, mesh, files, name):
    for command in (("chat", "Q"), ("tenant", "list")):
        ends_clearly(shell(*command, "--key-file", str(files / name)))


@pytest.mark.parametrize("name", ["two.key", "latin.key", "deep.yaml", ".", "missing.json", "/dev/zero"])
def test_a_file_without_pinned_keys_is_a_usage_error(shell, files, name):
    ends_clearly(shell("audit", "verify", str(files), "--keys", str(files / name)))


@pytest.mark.parametrize("name", ["no.pem", ".", "missing.pem", "/dev/zero", "/dev/null"])
def test_a_file_without_a_certificate_is_a_usage_error(shell, mesh, files, name):
    ends_clearly(shell("tenant", "list", "--ca-file", str(files / name)))


@pytest.mark.parametrize(
    "name",
    [
        "deep.yaml", "mappings.yaml", "hundred.yaml", "surrogate.yaml", "surrogate-key.yaml",
        "surrogate-inside.yaml", "nul.yaml", "latin.yaml", "tab.yaml", "laughs.yaml", "itself.yaml",
        "unhashable.yaml", "digits.yaml", "number.yaml", "binary.yaml", "python.yaml", "list.yaml",
        "empty.yaml", ".", "missing.yaml", "/dev/zero",
    ],
)  # fmt: skip
def test_a_file_without_a_usable_document_is_a_usage_error(shell, admin, files, name):
    admin.add_tenant("acme")
    file = str(files / name)
    ends_clearly(shell("tenant", "update", "acme", "--file", file))
    ends_clearly(shell("model", "create", "m", "--file", file))
    if name != ".":
        ends_clearly(shell("tenant", "apply", "--file", file), details=True)
    assert not admin.updates


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "Q", "--address", "no where"),
        ("chat", "Q", "--address", "host:99999"),
        ("chat", "Q", "--address", "host"),
        ("chat", "Q", "--state-dir", "~no-such-user/x"),
        ("chat", "Q", "--timeout", "nan"),
        ("chat", "Q", "--timeout", "inf"),
        ("chat", "Q", "--timeout", "1e300"),
        ("chat", "Q", "--seed", "9" * 30),
        ("chat", "Q", "--max-tokens", "99999999999"),
        ("tenant", "update", "acme", "--weight", "99999999999999"),
        ("tenant", "update", "acme", "--weight", "-99999999999999"),
        ("tenant", "update", "acme", "--concurrency", "9" * 30),
        ("tenant", "update", "acme", "--token-rate", "9" * 30),
        ("tenant", "update", "acme", "--system-prompt", "@/"),
        ("tenant", "update", "acme", "--system-prompt", "@/dev/zero"),
        ("tenant", "suspend", "acme", "--wait", "--wait-seconds", "nan"),
        ("tenant", "diff", "acme", "9" * 30),
        ("tenant", "diff", "acme", "²"),
        ("key", "create", "acme", "--out", "/"),
        ("key", "create", "acme", "--days", "999"),
        ("adapter", "register", "acme", "x", "/dev/null", "--base-model", "m"),
        ("tennant", "list"),
        ("tenant", "list", "--nope"),
    ],
)
def test_a_value_out_of_range_is_a_usage_error(shell, admin, arguments):
    admin.add_tenant("acme")
    ends_clearly(shell(*arguments))
    assert not admin.updates
    assert not admin.keys


def ends_clearly(result, *, details: bool = False) -> None:
    """Exit status 2 and one line, with at most one more that says what to do; nothing on stdout."""
    said = result.stderr.splitlines()
    assert result.exit_code == USAGE, result.output
    assert said[0].startswith("Error: ")
    assert len(said) <= (20 if details else 2), result.stderr
    assert "has a defect" not in result.stderr
    assert result.stdout == ""


def test_usage_errors_are_json_for_programs(shell):
    result = shell("tenant", "list", "--nope", "--json")
    assert result.exit_code == USAGE
    assert result.stderr.startswith('{"error":{"message":"no such option: --nope')


def test_a_defect_is_named_with_its_place_and_fails(shell, mesh, monkeypatch):
    def broken(*_, **__):
        raise KeyError("secret")

    monkeypatch.setattr("services.cli.mesh.Mesh.admin", broken)
    result = shell("tenant", "list")
    assert result.exit_code == FAILED
    assert result.stderr.startswith(
        "Error: the command has a defect: KeyError in test_hostile_input.py, line "
    )
    assert "secret" not in result.stderr


def test_at_least_25_lines_are_run_by_the_real_command():
    assert len(SHELL_CASES) >= 25
