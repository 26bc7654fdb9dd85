"""Receives a request's tokens and its end from the engine's thread."""

from __future__ import annotations

from typing import Protocol

from triton_models.cpu_engine.engine import TokenEvent


class ResponseSink(Protocol):
    """Where one request's events go; called on the engine's thread."""

    def cancelled(self) -> bool:
        """Whether the client has gone."""
        ...

    def on_event(self, event: TokenEvent) -> None:
        """A token, or the end."""
        ...

    def on_stopped(self) -> None:
        """The request was cancelled or stopped; no event follows."""
        ...

    def on_error(self, message: str) -> None:
        """The request failed; no event follows."""
        ...
