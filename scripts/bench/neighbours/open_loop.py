"""Sends requests at their times, whether or not earlier ones were answered, and notes what came back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tenantry.inference.v1 import inference_service_pb2 as pb
from tokenizers import Tokenizer

from scripts.bench.neighbours.figures import End, Outcome
from scripts.bench.neighbours.workloads import Arrival
from tests.fakes.tiny_text import tiny_tokeniser_json

# Longer than any run, so that no deadline is in the way.
_CALL_SECONDS = 3600.0
_PROBE_SECONDS = 120.0
_WORD = "hello world "
_RENDERED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(slots=True)
class OpenLoop:
    """The requests of one run.

    Args:
        stub: the router's.
        authorizations: by tenant name, as arrivals have it.
        started_at: the run's start, on `time.monotonic`.
    """

    stub: Any
    authorizations: dict[str, str]
    started_at: float
    outcomes: list[Outcome] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    _calls: dict[asyncio.Task[None], Outcome] = field(default_factory=dict)
    _broken: BaseException | None = None
    """An error of the generator's own."""

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_at

    async def send(self, arrivals: Iterable[Arrival]) -> None:
        """Send every request at its time."""
        for arrival in arrivals:
            if (wait := arrival.at_seconds - self.now) > 0:
                await asyncio.sleep(wait)
            # As the request was due: if the generator is late, its callers wait from then on.
            self.late_seconds.append(max(0.0, self.now - arrival.at_seconds))
            outcome = Outcome(arrival.tenant, arrival.at_seconds, rendered_tokens(arrival.prompt_tokens))
            self.outcomes.append(outcome)
            call = asyncio.create_task(self._call(arrival, outcome))
            self._calls[call] = outcome
            call.add_done_callback(self._ended)

    async def settle(self, tenants: Sequence[str], before_seconds: float, patience_seconds: float) -> None:
        """Wait a while for the end of what these tenants sent before a time."""
        own = [
            call
            for call, outcome in self._calls.items()
            if outcome.tenant in tenants and outcome.sent_at < before_seconds
        ]
        if own:
            await asyncio.wait(own, timeout=patience_seconds)

    async def cancel(self) -> None:
        """Cancel all that runs, or waits."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        if self._broken is not None:
            raise self._broken

    def _ended(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        if not call.cancelled() and (error := call.exception()) is not None:
            self._broken = error

    async def _call(self, arrival: Arrival, outcome: Outcome) -> None:
        call = self.stub.StreamGenerate(
            _request(arrival),
            metadata=(("authorization", self.authorizations[arrival.tenant]),),
            timeout=_CALL_SECONDS,
        )
        try:
            async for event in call:
                if event.HasField("delta"):
                    # Every token of the scripted server is one character.
                    outcome.token_times.append((self.now, len(event.delta.text)))
                    if arrival.leaves_after_first:
                        outcome.end = End.LEFT
                        return
                elif event.final.usage.input_tokens == outcome.prompt_tokens:
                    outcome.end = End.ANSWERED
                else:
                    outcome.end, outcome.reason = End.FAILED, "OTHER_PROMPT_TOKENS"
        except grpc.aio.AioRpcError as error:
            outcome.reason = _reason(error) or error.code().name
            refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            outcome.end = End.REFUSED if refused else End.FAILED
        finally:
            call.cancel()


async def until_idle(stub: Any, authorization: str) -> None:
    """Ask once: behind what still waits, the answer comes when that is gone."""
    request = _request(Arrival(0.0, "probe", 1, 1))
    call = stub.StreamGenerate(request, metadata=(("authorization", authorization),), timeout=_PROBE_SECONDS)
    async for _ in call:
        pass


def _reason(error: grpc.aio.AioRpcError) -> str:
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    details = () if status is None else status.details
    return next((info.reason for detail in details if detail.Unpack(info)), "")


def _request(arrival: Arrival) -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=_text(arrival.prompt_tokens))])
    return pb.GenerateRequest(
        model="chat" if arrival.adapter is None else f"adapter-{arrival.adapter}",
        conversation=pb.Conversation(messages=[message]),
        parameters=pb.SamplingParameters(max_output_tokens=arrival.output_tokens),
    )


@cache
def _text(prompt_tokens: int) -> str:
    """A text of about so many tokens."""
    words = _WORD * max(1, prompt_tokens // len(_tokeniser().encode(_WORD).ids))
    return words.strip()


@cache
def rendered_tokens(prompt_tokens: int) -> int:
    """The tokens of a request's prompt, the chat template included."""
    return len(_tokeniser().encode(_RENDERED.format(_text(prompt_tokens))).ids)


@cache
def _tokeniser() -> Tokenizer:
    return Tokenizer.from_str(tiny_tokeniser_json().decode())
