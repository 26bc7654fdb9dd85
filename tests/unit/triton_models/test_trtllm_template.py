"""The TensorRT-LLM template against Triton's own schema, the twin's config and the router's requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

import triton_models
from services.router.backends import trtllm_engine
from services.router.backends.backend import AdapterTensors, AdapterUse, DispatchRequest
from services.router.backends.kserve_stubs import InferRequest
from services.router.stages import Parameters

REPOSITORIES = Path(triton_models.__file__).parent


def config_of(repository):
    text = (REPOSITORIES / repository / "tensorrt_llm" / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, pb.ModelConfig())


TEMPLATE, TWIN = config_of("trtllm"), config_of("cpu")
PARAMETERS = {key: value.string_value for key, value in TEMPLATE.parameters.items()}


def by_name(tensors):
    named = {one.name: one for one in tensors}
    assert len(named) == len(tensors), "a tensor is declared twice"
    return named


@pytest.mark.parametrize("side", ["input", "output"])
def test_every_tensor_is_the_twins(side):
    """Name, type, dims, reshape, optionality and raggedness."""
    template, twin = (by_name(getattr(config, side)) for config in (TEMPLATE, TWIN))
    assert template.keys() == twin.keys()
    for name in template:
        assert template[name] == twin[name], name


def test_the_adapter_tensors_are_as_the_engine_backend_reads_them():
    inputs = by_name(TEMPLATE.input)
    shapes = {name: (inputs[name].data_type, list(inputs[name].dims)) for name in inputs if "lora" in name}
    assert shapes == {
        "lora_task_id": (pb.TYPE_UINT64, [1]),
        "lora_weights": (pb.TYPE_FP16, [-1, -1]),
        "lora_config": (pb.TYPE_INT32, [-1, -1]),  # 3 columns or 4
    }


def test_it_is_served_as_the_router_needs_it():
    assert (TEMPLATE.name, TEMPLATE.backend) == ("tensorrt_llm", "tensorrtllm")
    assert TEMPLATE.model_transaction_policy.decoupled
    assert TEMPLATE.dynamic_batching == TWIN.dynamic_batching
    assert [group.count for group in TEMPLATE.instance_group] == [1]
    assert (
        PARAMETERS.items()
        >= {
            "enable_kv_cache_reuse": "false",
            "kv_cache_host_memory_bytes": "0",
            "max_beam_width": "1",
            "cancellation_check_period_ms": "100",
        }.items()
    )
    assert "lora_prefetch_dir" not in PARAMETERS
    for name in ("exclude_input_in_output", "lora_cache_max_adapter_size"):
        assert PARAMETERS[name] == TWIN.parameters[name].string_value
    assert all(PARAMETERS.values()), "a value that is no string"


def test_the_router_sends_nothing_else_and_everything_required():
    sampled = Parameters(16, 0.7, 0.9, 40, 5, ())
    weights = trtllm_engine.encode_adapter(AdapterTensors(b"w" * 8, (1, 4), "FP16", b"c" * 12, (1, 3)))
    request = DispatchRequest("id", "tensorrt_llm", [5], sampled, 2, 3, AdapterUse(1 << 40, 1, weights))
    declared = by_name(TEMPLATE.input)
    for raw in (trtllm_engine.encode(request), trtllm_engine.encode_stop(request)):
        sent = {one.name: one for one in InferRequest.FromString(raw).inputs}
        assert sent.keys() >= {name for name, one in declared.items() if not one.optional}
        for name, one in sent.items():
            assert f"TYPE_{one.datatype}" == pb.DataType.Name(declared[name].data_type), name
            batch, *dims = one.shape
            assert batch == 1
            fits = np.equal(dims, declared[name].dims) | np.equal(declared[name].dims, -1)
            assert fits.all(), name
