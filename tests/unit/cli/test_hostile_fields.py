"""Whatever a service's field holds, no output of any command moves a cursor, turns text around or forges a row."""

from __future__ import annotations

import importlib
import json
import re
import unicodedata

import pytest
import typer
from google.protobuf.message import Message
from tenantry.config.v1.adapter_pb2 import Adapter, AdapterVersion
from tenantry.config.v1.credential_pb2 import Key, KeyState
from tenantry.config.v1.pool_pb2 import BaseModel, Pool
from tenantry.config.v1.router_status_pb2 import RouterState, RouterStatus
from tenantry.config.v1.tenant_pb2 import TenantState

from services.cli import visible_text
from services.cli.clients.admin_catalog import CatalogClient
from services.cli.clients.listener import Caller
from services.cli.commands.adapter import ADAPTER_FILES
from services.cli.main import SUBCOMMANDS
from services.cli.visible_text import json_escaped, one_line, prose
from services.common.errors import Error, FieldViolation, InvalidArgumentError, PermissionDeniedError
from tests.fakes.mutants import replaced

CONTROLS = "\x1b[31m\x00\x07\x7f\x9b2J\r\t"
FORMATS = "\u202e\u2066\u200f\u200b\u00ad\ufeff\u2028\u2029\u061c\U000e0041"
HOSTILE = f"x{CONTROLS}{FORMATS}\nforged  row"
FORGED = re.compile(r"^\s*forged", re.MULTILINE)
KEPT = {"next_page_token", "etag"}

# Every leaf command that asks a service, with arguments that let it succeed.
COMMANDS: dict[str, tuple[str, ...]] = {
    "chat": ("Q",),
    "tenant create": ("new", "--base-model", "m"),
    "tenant get": ("acme",),
    "tenant list": (),
    "tenant update": ("acme", "--weight", "5", "--wait"),
    "tenant usage": ("acme",),
    "tenant versions": ("acme",),
    "tenant diff": ("acme", "1", "2"),
    "tenant rollback": ("acme", "1"),
    "tenant suspend": ("acme",),
    "tenant resume": ("acme",),
    "tenant delete": ("bolt", "--yes"),
    "tenant export": ("acme",),
    "tenant apply": ("--file", "FILE", "--yes"),
    "key create": ("acme",),
    "key list": ("acme",),
    "key revoke": ("acme", "k1"),
    "adapter register": ("acme", "new", "FOLDER", "--base-model", "m"),
    "adapter get": ("acme", "pirate"),
    "adapter list": ("acme",),
    "model create": ("new", "--file", "MODEL"),
    "model get": ("m",),
    "model list": (),
    "model delete": ("m",),
    "pool create": ("new", "--file", "MODEL"),
    "pool get": ("p",),
    "pool list": (),
    "router list": (),
}
SHOW_NOTHING_OF_AN_ANSWER = {"model delete", "tenant usage"}
# They ask no service, or print what was verified and is tested beside them.
ELSEWHERE = {"up", "explain", "edge render", "audit export", "audit verify", "audit grant", "operator log"}


@pytest.fixture
def filled(mesh, tmp_path):
    """A mesh that has one of everything, and the files the commands are given."""
    admin = mesh.admin
    for tenant in ("acme", "bolt"):
        admin.add_tenant(tenant, display_name="Name")
        admin._keep(admin.tenants[f"tenants/{tenant}"], next_version=True, reason="because")
    admin.tenants["tenants/bolt"].state = TenantState.TENANT_STATE_SUSPENDED
    admin.versions["tenants/acme"][0].config.weight = 7
    admin.keys["tenants/acme/keys/k1"] = Key(
        name="tenants/acme/keys/k1",
        display_name="Name",
        state=KeyState.KEY_STATE_ACTIVE,
        scopes=["inference"],
    )
    admin.adapters["tenants/acme/adapters/pirate"] = Adapter(
        name="tenants/acme/adapters/pirate", versions=[AdapterVersion(version=1, base_model="models/m")]
    )
    admin.models["models/m"] = BaseModel(name="models/m")
    admin.pools["pools/p"] = Pool(name="pools/p", base_model="models/m", dedicated_to="tenants/acme")
    admin.routers.append(
        RouterStatus(
            router="r",
            state=RouterState.ROUTER_STATE_REFUSED,
            refused_revision=1,
            reasons=["because", "because"],
        )
    )
    for name in ADAPTER_FILES:
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "tenant.yaml").write_text(
        "tenant: acme\nconfig:\n  models: [{alias: smollm2, base_model: models/smollm2}]\n  weight: 9\n"
    )
    (tmp_path / "model.yaml").write_text("{}")
    return mesh


@pytest.fixture
def answered_with(filled, monkeypatch):
    """Puts a text after every string of every answer, and takes it out of what is sent back."""
    text = ""
    unary, register = Caller.unary, CatalogClient.register_adapter

    async def call(self, method, request, timeout_seconds):
        replace_strings(request, lambda _, value: value.replace(text, "") if text else value)
        return add_text(await unary(self, method, request, timeout_seconds), text)

    async def registered(self, *arguments, **options):
        return add_text(await register(self, *arguments, **options), text)

    monkeypatch.setattr(Caller, "unary", call)
    monkeypatch.setattr(CatalogClient, "register_adapter", registered)

    def set_text(wanted: str) -> None:
        nonlocal text
        text = wanted
        filled.inference.pieces = ("a", wanted, "b")

    return set_text


def add_text(message, text: str):
    def added(name: str, value: str) -> str:
        if name in KEPT:
            return value
        if name.endswith("_json"):
            return json.dumps(value + text, ensure_ascii=False)
        return value + text

    replace_strings(message, added)
    return message


def replace_strings(message: Message, change) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.type == field.TYPE_STRING:
            if field.is_repeated:
                value[:] = [change(field.name, one) for one in value]
            else:
                setattr(message, field.name, change(field.name, value))
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                replace_strings(inner, change)


def arguments_of(command: str, tmp_path) -> list[str]:
    files = {"FILE": tmp_path / "tenant.yaml", "FOLDER": tmp_path, "MODEL": tmp_path / "model.yaml"}
    return [*command.split(), *(str(files.get(one, one)) for one in COMMANDS[command])]


def invisible(text: str, allowed: str) -> set[str]:
    return {
        character
        for character in text
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in allowed
    }


def test_every_command_is_in_the_table():
    found = set()
    for name, (where, _) in SUBCOMMANDS.items():
        module, _, attribute = where.partition(":")
        part = getattr(importlib.import_module(module), attribute)
        if not isinstance(part, typer.Typer):
            found.add(name)
            continue
        command = typer.main.get_command(part)
        found |= {f"{name} {inner}" for inner in command.commands}
    assert found - ELSEWHERE == set(COMMANDS) - ELSEWHERE
    assert found >= ELSEWHERE


@pytest.mark.parametrize("command", COMMANDS)
def test_no_output_holds_what_a_terminal_obeys_or_a_reader_does_not_see(
    shell, answered_with, tmp_path, command
):
    arguments = arguments_of(command, tmp_path)
    answered_with(HOSTILE)
    result = shell(*arguments)
    assert not invisible(result.stdout, "\n\t" if command == "chat" else "\n")
    assert not invisible(result.stderr, "\n")
    assert "\\x9b" in result.output.lower() or command in SHOW_NOTHING_OF_AN_ANSWER
    assert command == "chat" or not FORGED.search(result.output)


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_one_object_a_line_and_keeps_every_character(shell, answered_with, tmp_path, command):
    arguments = [*arguments_of(command, tmp_path), "--json"]
    answered_with(HOSTILE)
    result = shell(*arguments)
    assert not invisible(result.output, "\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert HOSTILE in "".join(strings_of(lines)) or command in SHOW_NOTHING_OF_AN_ANSWER


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


@pytest.mark.parametrize(
    "error",
    [
        PermissionDeniedError(HOSTILE, metadata={"rule_id": HOSTILE}),
        InvalidArgumentError([FieldViolation(HOSTILE, HOSTILE)]),
    ],
    ids=["message", "violations"],
)
def test_errors_are_escaped_too(shell, filled, error: Error):
    error.request_id = HOSTILE
    filled.admin.error = error
    for arguments in (["tenant", "list"], ["tenant", "list", "--json"]):
        result = shell(*arguments)
        assert result.exit_code == 1
        assert not invisible(result.stderr, "\n")
        assert "forged" in result.stderr
        assert not FORGED.search(result.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[2J\x9b\x00", "\\x1b[2J\\x9b\\x00"),
        ("\u202eabc\u2028", "\\u202eabc\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("Grüße, 世界 👩\u200d🔬 \\n", "Grüße, 世界 👩\\u200d🔬 \\n"),
    ],
)
def test_invisible_characters_are_escaped_and_nothing_else(text, shown):
    assert one_line(text) == shown
    assert one_line(shown) == shown


def test_an_answer_keeps_what_texts_are_written_with():
    persian = "\u0645\u06cc\u200c\u062e"
    assert prose(f"a\n\tb 👩\u200d🔬 {persian}") == f"a\n\tb 👩\u200d🔬 {persian}"
    assert invisible(prose(HOSTILE), "\n\t") == set()


def test_escaped_json_is_the_same_json():
    value = {HOSTILE: [HOSTILE, "世界", '"\\']}
    text = json_escaped(json.dumps(value, ensure_ascii=False))
    assert not invisible(text, "")
    assert "世界" in text
    assert json.loads(text) == value


def test_without_the_escapes_a_row_can_be_forged(shell, answered_with, monkeypatch):
    answered_with(HOSTILE)
    broken = replaced(visible_text, "one_line", lambda text: text)
    monkeypatch.setattr("services.cli.terminal.output.one_line", broken.one_line)
    assert FORGED.search(shell("tenant", "versions", "acme").stdout)
