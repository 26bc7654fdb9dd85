"""Loads adapters' weights in threads: read, unseal, verify, parse, encode; keeps them in a bounded cache.

Opened weights are a tenant's own: they are found by lora id, which no two tenants share, and live in memory only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from services.common.artifacts import ArtifactError, ArtifactStore
from services.common.sealed_artifact import SealedArtifactError, artifact_associated_data, open_sealed
from services.router.backends.backend import AdapterTensors
from services.router.backends.rendition_file import RenditionError, read_rendition
from services.router.snapshot.model import AdapterBinding

_THREADS = 2


class AdapterWeightsError(Exception):
    """An adapter's artifact is missing, damaged, sealed for another tenant, or has another digest."""


class AdapterWeights:
    """Keeps the weights used last, up to a number of bytes; loads each once at a time.

    Args:
        artifacts: where renditions are.
        max_cached_bytes: of encoded weights.
        encode: turns tensors into the dialect's form.
    """

    def __init__(
        self, artifacts: ArtifactStore, max_cached_bytes: int, encode: Callable[[AdapterTensors], bytes]
    ) -> None:
        self._artifacts = artifacts
        self._encode = encode
        self._max_cached_bytes = max_cached_bytes
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._loading: dict[int, asyncio.Task[bytes]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="adapter")

    async def load(self, tenant_uid: str, binding: AdapterBinding) -> bytes:
        """The weights of a tenant's adapter in the dialect's form.

        Raises:
            AdapterWeightsError: the artifact cannot be used.
        """
        lora_id = binding.rendition.lora_id
        cached = self._cached.get(lora_id)
        if cached is not None:
            self._cached.move_to_end(lora_id)
            return cached
        loading = self._loading.get(lora_id)
        if loading is None:
            loading = asyncio.create_task(self._load(tenant_uid, binding), name="load adapter")
            self._loading[lora_id] = loading
            loading.add_done_callback(lambda done: self._loaded(lora_id, done))
        # A caller that leaves must not fail the others that wait for the same load.
        return await asyncio.shield(loading)

    async def _load(self, tenant_uid: str, binding: AdapterBinding) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._open, tenant_uid, binding)

    def _open(self, tenant_uid: str, binding: AdapterBinding) -> bytes:
        return self._encode(_open(self._artifacts, tenant_uid, binding))

    def _loaded(self, lora_id: int, done: asyncio.Task[bytes]) -> None:
        del self._loading[lora_id]
        if done.cancelled() or done.exception() is not None:
            return
        weights = done.result()
        if len(weights) > self._max_cached_bytes:
            return
        self._cached[lora_id] = weights
        self._cached_bytes += len(weights)
        while self._cached_bytes > self._max_cached_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= len(oldest)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in list(self._loading.values()):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _open(artifacts: ArtifactStore, tenant_uid: str, binding: AdapterBinding) -> AdapterTensors:
    rendition = binding.rendition
    try:
        sealed = artifacts.read(rendition.artifact_sha256)
        bound_to = artifact_associated_data(tenant_uid, rendition.sha256)
        data = open_sealed(binding.version.artifact_key, bound_to, sealed)
        if hashlib.sha256(data).hexdigest() != rendition.sha256:
            raise AdapterWeightsError("the rendition has another digest")
        return read_rendition(data)
    except (ArtifactError, SealedArtifactError, RenditionError, ValueError, OSError) as error:
        raise AdapterWeightsError(f"{type(error).__name__} at rendition {rendition.sha256[:12]}") from None
