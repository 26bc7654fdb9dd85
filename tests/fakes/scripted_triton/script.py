"""What a scripted Triton is told to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
        return cls(**fields)
