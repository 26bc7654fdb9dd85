"""Counts the tokens of a tenant's system prompts; the rest of a model's context is left to its callers.

Counting blocks: call it in a thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import ArtifactError, ArtifactStore
from services.common.text.templates import Segment
from services.common.text.tokenisation import Tokeniser, TokeniserError
from services.config.rules.size import MAX_MODELS
from services.config.state.config_state import ConfigState

MAX_COUNTED_BYTES = 16 << 10
_KEPT = 16

PromptTokens = Mapping[tuple[str, str], int]
"""The tokens of a prompt by base model and prompt; absent where they cannot be counted."""


class PromptLengths:
    """Counts with the tokenisers of the base models; safe to share between threads."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._tokenisers: OrderedDict[str, Tokeniser | None] = OrderedDict()
        # Loading a tokeniser takes many times its size in memory: one at a time. Counting does not hold the lock.
        self._loading = threading.Lock()

    def count(self, config: tenant_pb2.TenantConfig, state: ConfigState) -> PromptTokens:
        """The tokens of every alias's system prompt under its base model."""
        counted: dict[tuple[str, str], int] = {}
        for alias in config.models[:MAX_MODELS]:
            prompt = alias.system_prompt if alias.HasField("system_prompt") else config.system_prompt
            model = state.model(alias.base_model)
            if not prompt or model is None or (alias.base_model, prompt) in counted:
                continue
            if len(prompt.encode()) > MAX_COUNTED_BYTES:
                continue
            tokeniser = self._tokeniser(model.model.tokenizer_sha256)
            if tokeniser is not None:
                # Text that looks like a control token stays text, as at the router.
                counted[alias.base_model, prompt] = len(tokeniser.encode([Segment(prompt, control=False)]))
        return counted

    def _tokeniser(self, digest: str) -> Tokeniser | None:
        with self._loading:
            if digest not in self._tokenisers:
                self._tokenisers[digest] = self._loaded(digest)
                if len(self._tokenisers) > _KEPT:
                    self._tokenisers.popitem(last=False)
            return self._tokenisers[digest]

    def _loaded(self, digest: str) -> Tokeniser | None:
        try:
            return Tokeniser(self._artifacts.read(digest))
        except (ArtifactError, TokeniserError, OSError):
            # Routers report that they cannot use it; here the tokens are not counted.
            return None
