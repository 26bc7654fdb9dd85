"""What a scripted Triton is told to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong with a request."""

    DROP = "drop"
    """The stream ends as when its connection is lost."""
    HANG = "hang"
    """Nothing more comes."""
    ERROR = "error"
    """An error of the engine."""
    NEVER_FINAL = "never_final"
    """The stream ends well without a final response."""
    MISS = "miss"
    """An adapter named by id alone is not cached, whatever was sent before."""
    FULL = "full"
    """No adapter can be cached."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How an engine batches; the defaults are the CPU twin's, measured (docs/adr/0012)."""

    slots: int = 16
    """Requests that run at once; more wait in the server, in order of arrival."""
    step_seconds: tuple[tuple[int, float], ...] = (
        (0, 0.014),
        (1, 0.0185),
        (8, 0.029),
        (16, 0.041),
        (32, 0.070),
    )
    """Running requests and how long a step takes then; straight lines between."""
    prompt_tokens_a_second: float = 1200.0
    """By these a step is longer."""
    prompt_tokens_a_step: int = 64
    """Longer prompts take several steps."""
    adapter_load_seconds: float = 0.05
    """By this the step is longer that an adapter is loaded in."""

    def faster(self, times: float) -> Batching:
        """The same engine, so many times as fast."""
        return replace(
            self,
            step_seconds=tuple((running, seconds / times) for running, seconds in self.step_seconds),
            prompt_tokens_a_second=self.prompt_tokens_a_second * times,
            adapter_load_seconds=self.adapter_load_seconds / times,
        )


@dataclass(frozen=True, slots=True)
class Script:
    """How every request is answered."""

    tokens: int | None = None
    """Said before the end token; none for no end, so that the request's own limit ends the answer."""
    first_token_delay_seconds: float = 0.0
    token_delay_seconds: float = 0.0
    empty_final: bool = False
    """End answers with a response without outputs, as some of Triton's backends do."""
    first_token: int = 3
    vocabulary_tokens: int = 49_152
    """Token ids are from `first_token` up to here, excluded."""
    fault: Fault | None = None
    fault_after_tokens: int = 0
    fault_requests: int | None = None
    """How many requests it happens to; none for all."""
    batching: Batching | None = None
    """The pace of all requests together, in place of the delays; none for each on its own."""

    @classmethod
    def from_json(cls, text: str) -> Script:
        """Read a script from the fields given; the others keep their defaults.

        Raises:
            ValueError: it is no JSON, or there is no such fault.
            TypeError: there is no such field.
        """
        fields = json.loads(text)
        if fields.get("fault") is not None:
            fields["fault"] = Fault(fields["fault"])
        if (batching := fields.get("batching")) is not None:
            fields["batching"] = Batching(**batching)
        return cls(**fields)
