"""`tenantry explain`: offline, aligned on terminals, plain in pipes, and never at a loss about a typing mistake."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
import yaml  # type: ignore[import-untyped]  # the wheel carries no types

from services.cli.reference.catalog import load

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def test_without_a_path_it_lists_what_there_is(shell):
    result = shell("explain")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [*load().topics, "calls"]
    assert "tenantry explain tenant.config.limits" in result.stderr


def test_a_field_says_all_there_is_to_know(shell):
    result = shell("explain", "tenant.config.audit_policy")
    lines = [line.rstrip().split(maxsplit=1) for line in result.stdout.splitlines() if line]
    assert ["Default", "AUDIT_POLICY_BLOCKING_STRICT"] in lines
    assert re.search(r"^Set by +platform-admins only *$", result.stdout, re.MULTILINE)
    choices = dict(line for line in lines if line[0].startswith("AUDIT_POLICY_"))
    assert set(choices) == {"AUDIT_POLICY_BATCH", "AUDIT_POLICY_BLOCKING", "AUDIT_POLICY_BLOCKING_STRICT"}
    prompt = shell("explain", "tenant.config.system_prompt").stdout
    assert "Sensitive" in prompt
    assert "at most 16384 bytes" in prompt


def test_a_group_lists_its_fields_and_recursively_those_below(shell):
    names = [line.split()[0] for line in shell("explain", "tenant.config.limits").stdout.splitlines() if line]
    assert set(load().messages["Limits"].fields) <= set(names)
    below = shell("explain", "tenant", "--recursive").stdout
    for path, _ in load().walk(load().messages["Tenant"], "tenant"):
        assert f"\n{path.removeprefix('tenant.')} " in below


def test_machines_get_one_object_with_everything(shell):
    field = json.loads(shell("explain", "tenant.config.limits.input_tokens", "--json").stdout)
    assert field["default"] == {"description": "what the model's context leaves"}
    assert (field["minimum"], field["set_by"]) == (0, "platform-admin")
    group = json.loads(shell("explain", "tenant.config", "--json", "-r").stdout)
    limits = next(field for field in group["fields"] if field["name"] == "limits")
    assert limits["fields"][0]["path"] == "tenant.config.limits.requests_per_second"
    assert limits["fields"][0]["default"] == 100
    [policy] = [field for field in group["fields"] if field["name"] == "audit_policy"]
    assert policy["choices"][0]["name"] == "AUDIT_POLICY_BATCH"
    shallow = json.loads(shell("explain", "tenant.config", "--json").stdout)
    assert all("fields" not in field for field in shallow["fields"])


def test_calls_are_listed_with_their_roles_and_messages_explained_by_name(shell):
    calls = [json.loads(line) for line in shell("explain", "calls", "--json").stdout.splitlines()]
    roles = {call["call"]: call["role"] for call in calls}
    assert roles["CreateTenant"] == "platform-admin"
    assert roles["UpdateTenant"] == "tenant-admin"
    assert "CreateTenantRequest → Tenant · platform-admin only" in shell("explain", "calls").stdout
    assert "at most 512 characters" in shell("explain", "CreateTenantRequest.reason").stdout


def test_a_mistyped_path_is_a_usage_error_that_says_what_was_meant(shell):
    result = shell("explain", "tenant.config.guardrail")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: guardrail is not a field in tenant.config.guardrail.",
        "Did you mean tenant.config.guardrails?",
    ]
    assert shell("explain", "zzz").stderr.splitlines()[1] == "`tenantry explain` lists what there is."


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json-schema", "key"),
        ("--example", "model"),
        ("--example",),
        ("--example", "--json-schema", "tenant"),
    ],
)
def test_only_what_people_write_has_a_schema_and_an_example(shell, arguments):
    result = shell("explain", *arguments)
    assert result.exit_code == 2
    assert "Give one of" in result.stderr
    assert result.stdout == ""


def test_schema_and_example_are_printed_whole(shell):
    assert json.loads(shell("explain", "--json-schema", "tenant").stdout)["required"] == ["tenant", "config"]
    assert yaml.safe_load(shell("explain", "--example", "tenant").stdout)["tenant"] == "acme"


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize(
    "arguments", [(), ("tenant.config", "-r"), ("tenant.config.audit_policy",), ("calls",)]
)
def test_on_a_terminal_columns_align_and_nothing_is_wider(columns, arguments):
    text = on_a_terminal(columns, "explain", *arguments)
    assert "\x1b[1m" in text
    lines = [line.rstrip() for line in ANSI.sub("", text).splitlines()]
    assert max(map(len, lines)) <= columns
    # Terms begin at the left, meanings at one column: every other line is a term's or belongs to the column.
    for block in "\n".join(lines).split("\n\n"):
        rows = [line for line in block.splitlines() if re.match(r"\S+ {2,}\S|\s+\S", line)]
        starts = {re.match(r"(\S+(?: \S+)? {2,}|\s+)", row).end() for row in rows}
        assert len(starts) <= 1, block


def test_in_a_pipe_nothing_is_wrapped_or_coloured(shell):
    text = shell("explain", "tenant.config").stdout
    assert "\x1b" not in text
    longest = max(load().messages["TenantConfig"].fields.values(), key=lambda field: len(field.about))
    assert longest.about in text


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What the command writes on a terminal of a width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    program = [sys.executable, "-c", "from services.cli.main import main; main()", *arguments]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}
    } | {"TERM": "xterm-256color"}
    with subprocess.Popen(program, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as running:
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 65536):
                text += piece
        except OSError:
            # What a Linux terminal says once the other side has closed it.
            pass
        finally:
            os.close(ours)
        assert running.wait(60) == 0
    return text.decode()
