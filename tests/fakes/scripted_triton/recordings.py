"""Recordings of the real server: files of raw frames, each with a summary to read."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.scripted_triton.conversation import Transcript

DIRECTORY = Path(__file__).parents[2] / "testdata" / "triton_frames"

_ENGINE_REQUEST = re.compile(r"requestId \d+")


def write_recording(name: str, about: str, transcript: Transcript) -> None:
    """Write one recording; the same transcript gives the same bytes."""
    document = {
        "scenario": name,
        "about": about,
        "status": {"code": transcript.code, "details": transcript.details},
        "frames": [
            {"raw": base64.b64encode(frame).decode(), "summary": _summary(frame)}
            for frame in transcript.frames
        ],
    }
    (DIRECTORY / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def read_recording(name: str) -> Transcript:
    """Read one recording."""
    document = json.loads((DIRECTORY / f"{name}.json").read_text("utf-8"))
    frames = tuple(base64.b64decode(frame["raw"]) for frame in document["frames"])
    return Transcript(frames, document["status"]["code"], document["status"]["details"])


def write_description(name: str, message: Any) -> None:
    """Write what the server says about its model."""
    document = {
        "message": message.DESCRIPTOR.full_name,
        "raw": base64.b64encode(message.SerializeToString(deterministic=True)).decode(),
        "summary": json_format.MessageToDict(message, preserving_proto_field_name=True),
    }
    (DIRECTORY / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def read_description(name: str) -> bytes:
    """Read what the server says about its model, as a raw message."""
    return base64.b64decode(json.loads((DIRECTORY / f"{name}.json").read_text("utf-8"))["raw"])


def shape_of(transcript: Transcript) -> list[Any]:
    """What two servers must agree on: all but the tokens' values and the engine's running number."""
    frames = [_summary(frame) for frame in transcript.frames]
    for frame in frames:
        frame.pop("tokens", None)
        if "error_message" in frame:
            frame["error_message"] = _ENGINE_REQUEST.sub("requestId K", frame["error_message"])
    return [transcript.code, _ENGINE_REQUEST.sub("requestId K", transcript.details), *frames]


def tokens_of(transcript: Transcript) -> list[int]:
    """Every token of an answer."""
    return [token for frame in transcript.frames for token in _summary(frame).get("tokens", [])]


def _summary(frame: bytes) -> dict[str, Any]:
    message = pb.ModelStreamInferResponse.FromString(frame)
    summary: dict[str, Any] = {}
    if message.error_message:
        summary["error_message"] = message.error_message
    response = message.infer_response
    if response.id:
        summary["id"] = response.id
    if response.model_name:
        summary["model"] = f"{response.model_name} {response.model_version}"
    if response.parameters:
        summary["parameters"] = {
            key: getattr(value, value.WhichOneof("parameter_choice"))
            for key, value in sorted(response.parameters.items())
        }
    if response.outputs:
        summary["outputs"] = [
            f"{output.name} {output.datatype} {list(output.shape)}" for output in response.outputs
        ]
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "output_ids":
            summary["tokens"] = list(struct.unpack(f"<{len(raw) // 4}i", raw))
    return summary
