"""A conversation with a model: the turns so far, and the request for the next answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from tenantry.inference.v1.inference_service_pb2 import (
    ContentPart,
    GenerateRequest,
    Message,
    Role,
    SamplingParameters,
)

from services.cli.numbers import INT32_MAX, UINT64_MAX, whole_number


@dataclass(frozen=True, slots=True)
class AskingOptions:
    """Options for every question of a conversation. None means the tenant's own value."""

    model: Annotated[str, typer.Option(metavar="ALIAS", help="The model; the tenant's default if unset.")] = (
        ""
    )
    adapter: Annotated[str, typer.Option(metavar="ADAPTER", help="In place of the model's own.")] = ""
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Instructions, after the tenant's own.")
    ] = None
    max_output_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", parser=whole_number(INT32_MAX, 1), metavar="N", help="Tokens at most."),
    ] = None
    temperature: Annotated[float | None, typer.Option(metavar="0-2", help="0 is greedy.")] = None
    top_p: Annotated[float | None, typer.Option(metavar="0-1", help="Sample within this mass.")] = None
    seed: Annotated[
        int | None, typer.Option(parser=whole_number(UINT64_MAX), metavar="N", help="Repeat a sample.")
    ] = None

    def parameters(self) -> SamplingParameters:
        """The sampling parameters. A None stays unset."""
        return SamplingParameters(
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )


class Conversation:
    """Keeps the questions that were answered; one that failed or was cancelled is forgotten."""

    def __init__(self, options: AskingOptions) -> None:
        self._options = options
        self._turns: list[Message] = []

    def request(self, question: str) -> GenerateRequest:
        """The request for the answer to a question, with all turns so far before it."""
        request = GenerateRequest(
            model=self._options.model,
            adapter=self._options.adapter,
            parameters=self._options.parameters(),
        )
        messages = request.conversation.messages
        if self._options.system is not None:
            messages.append(_message(Role.ROLE_SYSTEM, self._options.system))
        messages.extend(self._turns)
        messages.append(_message(Role.ROLE_USER, question))
        return request

    def answered(self, question: str, answer: str) -> None:
        """Keep a question with its whole answer."""
        self._turns += [_message(Role.ROLE_USER, question), _message(Role.ROLE_ASSISTANT, answer)]

    def start_anew(self) -> None:
        """Forget every turn."""
        self._turns.clear()


def _message(role: Role.ValueType, text: str) -> Message:
    return Message(role=role, content=[ContentPart(text=text)])
