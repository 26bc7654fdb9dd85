"""`tenantry chat`: one question, or a conversation."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Annotated

import typer

from services.cli.clients.inference import InferenceClient
from services.cli.clients.names import short
from services.cli.documents import to_plain
from services.cli.given_text import STDIN, as_text, read_bytes, require_text
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.conversation import AskingOptions, Conversation
from services.cli.terminal.failure import report
from services.cli.terminal.interruption import run_interruptibly
from services.cli.terminal.output import Output
from services.cli.terminal.provenance import summary
from services.cli.visible_text import one_line
from services.common.command_errors import CommandError, UsageError
from services.common.errors import Error, InternalError

# As much as gRPC takes in one message; a tenant's own limit is lower.
_MAX_QUESTION_BYTES = 1 << 22
_HELP = "/new starts over, /quit or Ctrl-D leaves, Ctrl-C cancels an answer."


@shared_options
def chat(
    mesh: Mesh,
    output: Output,
    question: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help="The question. Without one, a conversation begins.",
            show_default=False,
        ),
    ] = None,
    *,
    options: AskingOptions,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", "-t", metavar="TENANT", help="Call with this tenant's local key."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="Time for one answer.")
    ] = 60.0,
    models: Annotated[bool, typer.Option("--models", help="List the models to choose from.")] = False,
) -> None:
    """Ask a tenant's model, once or in a conversation. A question can be piped in."""
    client = mesh.inference(tenant)
    if models:
        asyncio.run(_list_models(client, output))
        return
    text = " ".join(question) if question else None
    if text is None and not sys.stdin.isatty():
        text = as_text(read_bytes(STDIN, "a question", _MAX_QUESTION_BYTES), "the question on stdin").strip()
        if not text:
            raise UsageError("there is no question.", 'Give one: tenantry chat --tenant acme "Who are you?"')
    if text is None and output.json:
        raise UsageError("--json answers one question.", "Give the question, or pipe it in.")
    with asyncio.Runner() as runner:
        session = Session(runner, client, Conversation(options), output, timeout)
        if text is not None:
            session.once(text)
        else:
            _load_line_editing()
            session.converse(f"{one_line(short(tenant)) if tenant else 'you'}> ", input)


def _load_line_editing() -> None:
    """Give `input` arrow keys and a history, unless this Python comes without readline."""
    with suppress(ImportError):
        importlib.import_module("readline")


class Session:
    """Asks questions one after another over one connection.

    Each answer is one run of the loop, so that Ctrl-C cancels the answer and not the program.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        client: AbstractAsyncContextManager[InferenceClient],
        conversation: Conversation,
        output: Output,
        timeout_seconds: float,
    ) -> None:
        self._runner = runner
        self._client = client
        self._conversation = conversation
        self._output = output
        self._timeout_seconds = timeout_seconds

    def once(self, question: str) -> None:
        """Answer one question."""

        async def run() -> None:
            async with self._client as client:
                await self._answer(client, question)

        run_interruptibly(self._runner, run())

    def converse(self, prompt: str, read_line: Callable[[str], str]) -> None:
        """Answer questions until the person leaves."""
        self._output.note(_HELP)
        client = self._runner.run(self._client.__aenter__())
        try:
            while (question := self._next_question(prompt, read_line)) is not None:
                try:
                    run_interruptibly(self._runner, self._answer(client, question))
                except KeyboardInterrupt:
                    self._output.line("")
                    self._output.note("Cancelled.")
                except (Error, CommandError) as error:
                    self._output.line("")
                    report(error, self._output)
        finally:
            self._runner.run(self._client.__aexit__(None, None, None))

    def _next_question(self, prompt: str, read_line: Callable[[str], str]) -> str | None:
        while True:
            try:
                line = require_text(read_line(prompt).strip(), "what was typed")
            except UsageError as error:
                report(error, self._output)
                continue
            except EOFError:
                self._output.line("")
                return None
            except KeyboardInterrupt:
                self._output.line("")
                self._output.note(_HELP)
                continue
            if line in ("/quit", "/exit"):
                return None
            if line == "/new":
                self._conversation.start_anew()
                self._output.note("A new conversation.")
            elif line.startswith("/"):
                self._output.note(_HELP)
            elif line:
                return line

    async def _answer(self, client: InferenceClient, question: str) -> None:
        pieces: list[str] = []
        request = self._conversation.request(question)
        events = client.stream_generate(request, timeout_seconds=self._timeout_seconds)
        final = None
        with self._output.streaming() as show:
            async with aclosing(events):
                async for event in events:
                    kind = event.WhichOneof("event")
                    if self._output.json and kind:
                        self._output.record({"event": kind, **to_plain(getattr(event, kind))})
                    if kind == "delta":
                        pieces.append(event.delta.text)
                        if not self._output.json:
                            show(event.delta.text)
                    elif kind == "final":
                        final = event.final
                        break
        if final is None:
            raise InternalError("the stream ended before the answer did")
        self._conversation.answered(question, "".join(pieces))
        if not self._output.json:
            self._output.line("")
            self._output.note(summary(final))


async def _list_models(connection: AbstractAsyncContextManager[InferenceClient], output: Output) -> None:
    async with connection as client:
        models = await client.list_models()
    output.table(
        models,
        ("MODEL", "BASE MODEL", "ADAPTER", "CONTEXT", "DEFAULT"),
        (
            (
                model.model,
                short(model.base_model),
                short(model.adapter),
                str(model.context_tokens),
                "yes" if model.is_default else "",
            )
            for model in models
        ),
        empty="The tenant has no models; an operator gives it one with `tenantry tenant update`.",
    )
