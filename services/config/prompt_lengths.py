"""How many tokens a tenant's system prompts have: what is left of a model's context is its callers'.

The only importer of `tokenizers` in the config service. Counting is done in a thread, one config at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping

from tenantry.config.v1 import tenant_pb2
from tokenizers import Tokenizer

from services.common.artifacts import ArtifactError, ArtifactStore
from services.config.state import State

MAX_COUNTED_BYTES = 16 << 10
_KEPT = 16

PromptTokens = Mapping[tuple[str, str], int]
"""Base model and prompt to its tokens; nothing where they cannot be counted."""


class PromptLengths:
    """Counts with the tokenisers of the base models."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._tokenisers: OrderedDict[str, Tokenizer | None] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()

    async def measure(self, config: tenant_pb2.TenantConfig, state: State) -> PromptTokens:
        """The tokens of every alias's system prompt under its base model."""
        wanted: dict[tuple[str, str], str] = {}
        for alias in config.models:
            prompt = alias.system_prompt if alias.HasField("system_prompt") else config.system_prompt
            model = state.model(alias.base_model)
            if prompt and model is not None and len(prompt.encode()) <= MAX_COUNTED_BYTES:
                wanted[alias.base_model, prompt] = model.model.tokenizer_sha256
        if not wanted:
            return {}
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._count, wanted)

    def _count(self, wanted: Mapping[tuple[str, str], str]) -> PromptTokens:
        counted = {}
        for (model, prompt), digest in wanted.items():
            tokeniser = self._tokeniser(digest)
            if tokeniser is not None:
                counted[model, prompt] = len(tokeniser.encode(prompt, add_special_tokens=False).ids)
        return counted

    def _tokeniser(self, digest: str) -> Tokenizer | None:
        if digest not in self._tokenisers:
            self._tokenisers[digest] = self._loaded(digest)
            if len(self._tokenisers) > _KEPT:
                self._tokenisers.popitem(last=False)
        return self._tokenisers[digest]

    def _loaded(self, digest: str) -> Tokenizer | None:
        try:
            document = json.loads(self._artifacts.read(digest))
            # Text that looks like a control token stays text, as at the router.
            return Tokenizer.from_str(json.dumps(document | {"added_tokens": []}))
        except ArtifactError:
            return None
        except Exception:  # noqa: BLE001 - the library raises bare Exception for whatever it cannot parse
            # Routers say that they cannot use it; here it only cannot be counted with.
            return None
