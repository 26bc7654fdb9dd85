"""One request's life in the twin: responses, ends, cancellation, refusals."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.integration.triton_process import outputs_of, prompt_tensors, read, running_twin, scalar

pytestmark = pytest.mark.integration

BLOCKS = 40  # of 32 tokens: two requests of 600 tokens fill it
PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
ANSWER = [504, 3575, 282, 4649, 314, 7042, 30]  # "The capital of France is Paris."
END = scalar(2, np.int32)
STREAMING = scalar(True, bool)


@pytest.fixture(scope="module")
def twin(prepared_model, tmp_path_factory):
    with running_twin(prepared_model, tmp_path_factory.mktemp("twin"), {"kv_cache_blocks": BLOCKS}) as server:
        yield server


def long_stream(twin, request_id="", new_tokens=600):
    tensors = prompt_tensors(PROMPT, new_tokens) | {"streaming": STREAMING}
    stream = twin.stream(tensors, request_id)
    assert not next(stream).error_message
    return stream


def record(stream, arrived):
    """The stream's messages, each noted as it comes."""
    for message in stream:
        arrived.put(message)
        yield message


def assert_blocks_free(twin):
    """A request that needs every block is answered only once nobody holds one."""
    room = BLOCKS * 32
    assert twin.generate([5] * (room - 1), 1).error is None


def test_streaming_gives_new_tokens_only_and_a_final_without_tokens_at_the_end_token(twin):
    reply = twin.generate(PROMPT, 40, end_id=END, streaming=STREAMING)
    assert reply.tokens == ANSWER
    assert [one["output_ids"].shape for one in reply.responses] == [(1, 1, 1)] * 7 + [(1, 1, 0)]
    assert [one["sequence_length"].tolist() for one in reply.responses] == [[[1]]] * 7 + [[[0]]]
    assert reply.finals == [False] * 7 + [True]


def test_at_the_length_limit_the_last_token_is_the_final_response(twin):
    reply = twin.generate(PROMPT, 3, end_id=END, streaming=STREAMING)
    assert reply.tokens == ANSWER[:3]
    assert reply.finals == [False, False, True]


def test_without_streaming_there_is_one_response(twin):
    reply = twin.generate(PROMPT, 40, end_id=END)
    assert reply.tokens == ANSWER
    assert reply.finals == [True]
    assert set(reply.responses[0]) == {"output_ids", "sequence_length"}


def test_the_prompt_is_echoed_when_it_is_not_excluded(twin):
    reply = twin.generate(PROMPT, 40, end_id=END, exclude_input_in_output=scalar(False, bool))
    assert reply.tokens == PROMPT + ANSWER
    assert reply.responses[0]["sequence_length"].tolist() == [[len(PROMPT) + len(ANSWER)]]


def test_without_an_end_token_it_runs_to_length(twin):
    assert len(twin.generate(PROMPT, 20).tokens) == 20


def test_token_counts_on_request(twin):
    wanted = {"return_num_input_tokens": scalar(True, bool), "return_num_output_tokens": scalar(True, bool)}
    (response,) = twin.generate(PROMPT, 40, end_id=END, **wanted).responses
    assert response["num_input_tokens"].tolist() == [[len(PROMPT)]]
    assert response["num_output_tokens"].tolist() == [[len(ANSWER)]]


def test_sampling_is_decided_by_the_seed(twin):
    def sampled(seed):
        return twin.generate(
            PROMPT,
            24,
            temperature=scalar(1.5, np.float32),
            runtime_top_k=scalar(50, np.int32),
            runtime_top_p=scalar(0.95, np.float32),
            seed=scalar(seed, np.uint64),
        ).tokens

    alone = sampled(2**64 - 1)
    with ThreadPoolExecutor(4) as pool:
        one, other, same, _ = pool.map(sampled, (2**64 - 1, 3, 2**64 - 1, 4))
    assert one == same == alone != other


def test_cancelled_calls_free_their_blocks_at_once(twin):
    cancelled = [long_stream(twin, new_tokens=440) for _ in range(2)]
    witness = long_stream(twin, "witness", new_tokens=280)  # the three hold every block
    for stream in cancelled:
        stream.cancel()
    assert twin.generate([7] * 400, 1).error is None
    twin.stop("witness")
    assert len(read(witness).tokens) < 279, "the room came by the ends of the cancelled ones"
    assert_blocks_free(twin)


def test_a_request_waits_for_blocks_and_is_answered(twin):
    streams = [long_stream(twin, request_id) for request_id in ("first", "second")]
    waiting = twin.stream(prompt_tensors([9] * 700, 2) | {"streaming": STREAMING}, "waiting")
    arrived = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read, record(waiting, arrived))
        # Both answers go on while it waits, for more steps than its own answer would take.
        for _ in range(24):
            for stream in streams:
                assert not next(stream).error_message
        assert arrived.empty()
        for request_id, stream in zip(("first", "second"), streams, strict=True):
            twin.stop(request_id)
            assert read(stream).finals[-1]
        assert answer.result().error is None


def test_stop_ends_the_request_of_the_same_id(twin):
    stream = long_stream(twin, "stop-me")
    stop = twin.stop("stop-me")
    assert stop.error is None
    assert not stop.responses
    reply = read(stream)
    assert reply.error is None
    assert reply.finals[-1]
    assert len(reply.tokens) < 500


def test_stop_of_an_unknown_id_is_no_error_and_without_an_id_is_one(twin):
    tensors = prompt_tensors(PROMPT, 1) | {"stop": scalar(True, bool)}
    assert read(twin.stream(tensors, "nobody")).error is None
    assert read(twin.stream(tensors)).error == "Trying to stop a request but request ID is not provided"


def test_requested_outputs_must_name_the_two_that_always_come(twin):
    tensors = prompt_tensors(PROMPT, 1)
    assert read(twin.stream(tensors, outputs=["output_ids", "sequence_length"])).error is None
    for only, missing in (("output_ids", "sequence_length"), ("sequence_length", "output_ids")):
        error = read(twin.stream(tensors, outputs=[only])).error
        assert error == f"{missing} tensor must be present in list of output tensors"


@pytest.mark.parametrize(
    ("prompt", "new_tokens", "message"),
    [
        (PROMPT, 0, "request_output_len"),
        ([49152], 1, "outside of the vocabulary"),
        ([-1], 1, "outside of the vocabulary"),
        ([5] * 1000, 281, "exceeds maximum sequence length (1280)"),
    ],
)
def test_what_can_never_be_served_is_refused_at_once(twin, prompt, new_tokens, message):
    reply = twin.generate(prompt, new_tokens)
    assert message in reply.error
    assert reply.error.startswith("Executor failed process requestId ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_width", scalar(2, np.int32)),
        ("repetition_penalty", scalar(1.1, np.float32)),
        ("stop_words_list", np.array([[[5], [1]]], np.int32)),
        ("embedding_bias", np.ones((1, 49152), np.float32)),
        ("return_log_probs", scalar(True, bool)),
    ],
)
def test_what_is_not_implemented_is_refused_not_ignored(twin, name, value):
    assert twin.generate(PROMPT, 1, **{name: value}).error == f"{name} is not supported by the CPU twin"


def test_neutral_values_of_what_is_not_implemented_are_accepted(twin):
    reply = twin.generate(
        PROMPT,
        2,
        beam_width=scalar(1, np.int32),
        repetition_penalty=scalar(1, np.float32),
        stop_words_list=np.empty((1, 2, 0), np.int32),
        len_penalty=scalar(0, np.float32),
        return_log_probs=scalar(False, bool),
    )
    assert reply.tokens == ANSWER[:2]


def test_errors_carry_the_code_internal_where_the_client_asks_for_codes(twin):
    request = service_pb2.ModelInferRequest(model_name="tensorrt_llm")
    for name, array in prompt_tensors([-1], 1).items():
        request.inputs.add(name=name, datatype="INT32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    with pytest.raises(grpc.RpcError) as failure:
        list(
            twin.stub.ModelStreamInfer(iter([request]), timeout=10, metadata=[("triton_grpc_error", "true")])
        )
    assert failure.value.code() == grpc.StatusCode.INTERNAL


def test_unary_inference_is_refused_because_the_model_is_decoupled(twin):
    request = service_pb2.ModelInferRequest(model_name="tensorrt_llm")
    with pytest.raises(grpc.RpcError, match="decoupled"):
        twin.stub.ModelInfer(request, timeout=10)


def test_a_long_prompt_does_not_hold_up_a_running_answer(twin):
    stream = iter(twin.stream(prompt_tensors(PROMPT, 120) | {"streaming": STREAMING}))
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        long_prompt = pool.submit(twin.generate, [11] * 900, 1)
        during = 0
        for message in stream:
            during += not long_prompt.done()
            if outputs_of(message.infer_response)["output_ids"].size == 0 or during > 100:
                break
        assert long_prompt.result().error is None
    assert during >= 5  # one token a chunk of the prompt, at the least
