"""Reads from a model server's Prometheus metrics how many requests it has taken and not begun. Pure.

Metrics: `nv_trt_llm_request_metrics{request_type="waiting"}` of the TensorRT-LLM backend and
`nv_inference_pending_request_count` of Triton (triton-inference-server docs, "Metrics"), `vllm:num_requests_waiting` of
vLLM through Triton's vLLM backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

_MOST = 1_000_000


def waiting_requests(exposition: str, server_model: str) -> int | None:
    """How many requests of a model wait inside its server; None where it does not say.

    Args:
        exposition: in Prometheus' text format 0.0.4.
        server_model: the name of the model at the server.

    Raises:
        ValueError: it is not in that format.
    """
    found = list(_waiting(exposition, server_model))
    return min(sum(found), _MOST) if found else None


def _waiting(exposition: str, server_model: str) -> Iterator[int]:
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.labels.get("model", server_model) != server_model:
                continue
            counts = sample.name in {"nv_inference_pending_request_count", "vllm:num_requests_waiting"} or (
                sample.name == "nv_trt_llm_request_metrics" and sample.labels.get("request_type") == "waiting"
            )
            if counts and math.isfinite(sample.value):
                yield min(max(0, int(sample.value)), _MOST)
