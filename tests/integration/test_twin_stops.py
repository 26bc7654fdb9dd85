"""Many requests ended by `stop` at random moments: the server lives, forgets them all, and stays right.

The moments include those around a request's own last token, where ending a request by cancelling its call can crash
this release of Triton.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.fakes.peft_adapters import random_adapter
from tests.integration.triton_process import outputs_of, prompt_tensors, read, running_twin, scalar

pytestmark = pytest.mark.integration

BLOCKS, SLOTS = 12, 2
AT_ONCE, ROUNDS = 8, 6
PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
STREAMING = {"streaming": scalar(True, bool)}


@pytest.fixture(scope="module")
def twin(prepared_model, tmp_path_factory):
    sizes = {"kv_cache_blocks": BLOCKS, "lora_cache_slots": SLOTS}
    with running_twin(prepared_model, tmp_path_factory.mktemp("twin"), sizes) as server:
        yield server


def stopped_at(twin, request_id, new_tokens, after, tensors):
    """Stop a request once so many of its tokens have come; returns every token of it."""
    stream = twin.stream(prompt_tensors(PROMPT, new_tokens) | STREAMING | tensors, request_id)
    tokens, final = [], False
    while len(tokens) < after:
        message = next(stream)
        assert not message.error_message, message.error_message
        tokens += outputs_of(message.infer_response)["output_ids"].ravel().tolist()
        final = message.infer_response.parameters["triton_final_response"].bool_param
    stop = twin.stop(request_id)
    assert stop.error is None
    assert not stop.responses
    rest = read(stream)
    assert rest.error is None
    assert final or rest.finals[-1]
    return tokens + rest.tokens


def test_requests_stopped_at_random_moments_leave_nothing_and_break_nothing(twin, prepared_model):
    moments = random.Random(20)
    adapters = [{}, *(random_adapter(prepared_model.card, one, seed=one) for one in (1, 2))]
    whole = [twin.generate(PROMPT, 12, **STREAMING, **adapter).tokens for adapter in adapters]
    assert len({tuple(tokens) for tokens in whole}) == len(whole)

    def one(number):
        which, new_tokens = number % len(adapters), 1 + moments.randrange(12)
        # Half of them within two tokens of the end, where the stop and the last response cross.
        after = max(0, new_tokens - moments.randrange(3)) if number % 2 else moments.randrange(new_tokens + 1)
        tokens = stopped_at(twin, f"stopped-{number}", new_tokens, after, adapters[which])
        assert after <= len(tokens) <= new_tokens
        assert tokens == whole[which][: len(tokens)]
        return len(tokens) < new_tokens

    with ThreadPoolExecutor(AT_ONCE) as pool:
        cut_short = list(pool.map(one, range(AT_ONCE * ROUNDS)))
    assert True in cut_short
    assert False in cut_short
    assert twin.process.poll() is None
    # Only with every block and every adapter slot free.
    assert twin.generate([5] * (BLOCKS * 32 - 1), 1).error is None
    for task_id in (3, 4):
        assert (
            twin.generate(PROMPT, 1, **random_adapter(prepared_model.card, task_id, seed=task_id)).error
            is None
        )
    assert twin.generate(PROMPT, 12, **STREAMING).tokens == whole[0]
    missed = twin.generate(PROMPT, 1, lora_task_id=scalar(1, np.uint64))
    assert missed.error.endswith("LoRA task 1 not found in cache. Please send LoRA weights with request")
