"""Reads a request from its tensors, and refuses inputs that the twin does not implement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.engine import AdapterReference, GenerationRequest
from triton_models.cpu_engine.errors import RequestError
from triton_models.cpu_engine.sampler import SamplingParameters

Tensors = Mapping[str, npt.NDArray[Any]]

# Accepted with these values only, which are TensorRT-LLM's defaults and mean "do nothing".
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "num_return_sequences": (1,),
    "beam_width": (1,),
    "runtime_top_p_min": (0.0, 1e-6),
    "runtime_top_p_decay": (1.0,),
    "runtime_top_p_reset_ids": (-1,),
    "len_penalty": (0.0,),
    "early_stopping": (0, 1),
    "repetition_penalty": (1.0,),
    "min_tokens": (0,),
    "beam_search_diversity_rate": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "return_log_probs": (0,),
    "return_context_logits": (0,),
    "return_generation_logits": (0,),
    "return_perf_metrics": (0,),
}
# Accepted empty only.
_NEUTRAL_EMPTY = (
    "stop_words_list",
    "bad_words_list",
    "embedding_bias",
    "retention_token_range_starts",
    "retention_token_range_ends",
    "retention_token_range_priorities",
    "retention_token_range_durations_ms",
    "retention_decode_priority",
    "retention_decode_duration_ms",
    "guided_decoding_guide_type",
    "guided_decoding_guide",
)
_USED = (
    "input_ids",
    "input_lengths",  # trims the padding of batches; one request is never padded
    "request_output_len",
    "end_id",
    "pad_id",  # pads beams of different lengths; there is one beam
    "temperature",
    "runtime_top_k",
    "runtime_top_p",
    "seed",
    "streaming",
    "stop",
    "exclude_input_in_output",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "lora_task_id",
    "lora_weights",
    "lora_config",
)
INPUT_NAMES = (*_USED, *_NEUTRAL, *_NEUTRAL_EMPTY)
"""Every input of the model."""


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """How the answer is wanted."""

    streaming: bool
    echo_prompt: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool


def is_stop(tensors: Tensors) -> bool:
    """Whether the request is to stop another one."""
    return bool(_scalar(tensors, "stop", 0))


def read_request(
    tensors: Tensors, *, exclude_input_default: bool
) -> tuple[GenerationRequest, ResponseOptions]:
    """Read the tensors of one request (batch of one).

    Raises:
        RequestError: something is missing, contradictory, or not implemented.
    """
    _refuse_unimplemented(tensors)
    if "input_ids" not in tensors:
        raise RequestError("input_ids or encoder_input_features is not present in the request")
    if tensors["input_ids"].ndim == 2 and len(tensors["input_ids"]) != 1:
        raise RequestError("more than one prompt in a request is not supported by the CPU twin")
    request = GenerationRequest(
        prompt=tensors["input_ids"].ravel().tolist(),
        max_new_tokens=int(_scalar(tensors, "request_output_len", 0)),
        end_token_id=int(_scalar(tensors, "end_id", -1)) if "end_id" in tensors else None,
        sampling=SamplingParameters(
            temperature=float(_scalar(tensors, "temperature", 1.0)),
            top_k=int(_scalar(tensors, "runtime_top_k", 0)),
            top_p=float(_scalar(tensors, "runtime_top_p", 0.0)),
            seed=int(_scalar(tensors, "seed", 0)),
        ),
        adapter=_adapter(tensors),
    )
    streaming = bool(_scalar(tensors, "streaming", 0))
    exclude = bool(_scalar(tensors, "exclude_input_in_output", exclude_input_default))
    return request, ResponseOptions(
        streaming=streaming,
        echo_prompt=not streaming and not exclude,
        return_num_input_tokens=bool(_scalar(tensors, "return_num_input_tokens", 0)),
        return_num_output_tokens=bool(_scalar(tensors, "return_num_output_tokens", 0)),
    )


def _refuse_unimplemented(tensors: Tensors) -> None:
    for name, neutral in _NEUTRAL.items():
        if name in tensors and not any(np.isclose(_scalar(tensors, name, 0), neutral, rtol=0, atol=1e-9)):
            raise RequestError(f"{name} is not supported by the CPU twin")
    for name in _NEUTRAL_EMPTY:
        if name in tensors and tensors[name].size:
            raise RequestError(f"{name} is not supported by the CPU twin")


def _adapter(tensors: Tensors) -> AdapterReference | None:
    weights, config = tensors.get("lora_weights"), tensors.get("lora_config")
    if "lora_task_id" not in tensors:
        if weights is not None or config is not None:
            raise RequestError("lora_task_id must be set for LoRA inference")
        return None
    if (weights is None) != (config is None):
        raise RequestError("Request for LoRA inference must have both lora_weights and lora_keys")
    return AdapterReference(int(tensors["lora_task_id"].ravel()[0]), weights, config)


def _scalar(tensors: Tensors, name: str, default: float) -> Any:
    if name not in tensors:
        return default
    if tensors[name].size != 1:
        raise RequestError(f"{name} must hold exactly one value")
    return tensors[name].ravel()[0]
