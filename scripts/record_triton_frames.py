"""Record what the real tritonserver answers to every scenario, for the scripted Triton to replay.

Run it after a change of the packaged Triton or of the twin's shell: `python scripts/record_triton_frames.py`, with the
names of scenarios to record those only.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tritonclient.grpc import service_pb2 as pb  # noqa: E402 -- needs the path above

from tests.fakes.scripted_triton.conversation import Conversation  # noqa: E402
from tests.fakes.scripted_triton.recordings import (  # noqa: E402
    DIRECTORY,
    write_description,
    write_recording,
)
from tests.fakes.scripted_triton.scenarios import ADAPTER_SLOTS, MODEL_NAME, SCENARIOS  # noqa: E402
from tests.integration.triton_process import running_twin  # noqa: E402
from triton_models.cpu_engine.preparation import prepare  # noqa: E402

_MODEL_CACHE = REPOSITORY / ".pytest_cache" / "d" / "models"


def main() -> None:
    """Start the server, hold every conversation, write every recording."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    _MODEL_CACHE.mkdir(parents=True, exist_ok=True)
    model = prepare(_MODEL_CACHE)
    with (
        tempfile.TemporaryDirectory() as state,
        running_twin(model, Path(state), {"lora_cache_slots": ADAPTER_SLOTS}) as server,
    ):
        asyncio.run(_record(server.target, set(sys.argv[1:])))


async def _record(target: str, names: set[str]) -> None:
    async with Conversation(target) as conversation:
        for scenario in (one for one in SCENARIOS if not names or one.name in names):
            transcript = await conversation.hold(scenario)
            write_recording(scenario.name, scenario.about, transcript)
            print(f"{scenario.name:24} {transcript.code:18} {len(transcript.frames)} frames")
        await _record_descriptions(conversation)


async def _record_descriptions(conversation: Conversation) -> None:
    metadata = await conversation.stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL_NAME), timeout=10)
    answer = await conversation.stub.ModelConfig(pb.ModelConfigRequest(name=MODEL_NAME), timeout=10)
    # Sizes and directories of this one launch; no part of the contract.
    answer.config.parameters.clear()
    write_description("model_metadata", metadata)
    write_description("model_config", answer)


if __name__ == "__main__":
    main()
