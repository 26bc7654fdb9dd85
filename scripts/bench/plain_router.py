"""`python -m scripts.bench.plain_router`: the router with identity and relay alone, to measure what policy costs.

The same process otherwise: it verifies the key, renders and encodes the prompt, and streams the answer. No limits,
quotas, queue, guardrails, audit entries or metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.router import main as router
from services.router.backends.backend import unwatched
from services.router.pool.demand import Cost
from services.router.request.outbox import Outbox
from services.router.request.pipeline import Call, Pipeline
from services.router.request.relay import relay
from services.router.request.shaping import caller_turns, shape
from services.router.stages import Admitted, Answered, Generation, Shaped


class _AnyPlace:
    """The pool's first endpoint, for as many as come."""

    send_weights = withdrawn = False

    def __init__(self, target: str) -> None:
        self.target = target

    def linger(self) -> Callable[[bool], None]:
        return unwatched()

    def adapter_accepted(self) -> None: ...

    def endpoint_failed(self) -> None: ...

    def charge(self, output_tokens: int) -> None: ...


class _Unlimited:
    def use(self, total_tokens: int) -> None: ...


class PlainPipeline(Pipeline):
    """Identity and relay."""

    async def run(self, call: Call[pb.GenerateRequest], outbox: Outbox | None) -> Answered:
        """Answer."""
        identified = self._identify(call)
        tenant = identified.tenant
        request = await call.receive(tenant.tenant_uid)
        said = caller_turns(request)
        asked = shape(tenant, request, self._rng, said, None)
        input_ids = await self._encoder.encode(tenant.tenant_uid, asked.base_model.text, asked.prompt)
        cost = Cost(len(input_ids), asked.parameters.max_output_tokens)
        shaped = Shaped(identified, asked, input_ids, cost, (), "", {})
        generation = Generation(charged_input_tokens=0)
        admitted = Admitted(shaped, None, self._clock.monotonic_seconds(), generation)
        place: Any = _AnyPlace(asked.pool.targets[0])
        unlimited: Any = _Unlimited()
        chunks = self._dispatcher.send(shaped, place)
        finish_reason = await relay(admitted, chunks, place, unlimited, outbox, self._clock)
        return Answered(admitted, finish_reason, self._clock.monotonic_seconds(), generation.text)


if __name__ == "__main__":
    vars(router)["Pipeline"] = PlainPipeline
    router.main()
