"""Response frames cut out of the recordings, so that a token costs a concatenation."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tests.fakes.scripted_triton.recordings import read_recording

# Tags of ModelStreamInferResponse.infer_response, ModelInferResponse.id and .raw_output_contents.
_INFER_RESPONSE = b"\x12"
_ID = b"\x1a"
_RAW_OUTPUT = b"\x32"


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """A response with a fixed number of tokens, open where id and tokens go."""

    before_id: bytes
    after_id: bytes
    after_tokens: bytes
    tokens_bytes: int

    @classmethod
    def cut(cls, recorded: bytes) -> TokenFrame:
        """Open a recorded frame.

        Raises:
            ValueError: putting its own id and tokens back does not give the recorded bytes.
        """
        response = pb.ModelStreamInferResponse.FromString(recorded).infer_response
        tokens, lengths = response.raw_output_contents
        named = pb.ModelInferResponse(
            model_name=response.model_name, model_version=response.model_version
        ).SerializeToString()
        described = pb.ModelInferResponse(outputs=response.outputs)
        described.parameters.MergeFrom(response.parameters)
        frame = cls(
            named,
            described.SerializeToString() + _RAW_OUTPUT + _length(len(tokens)),
            _field(_RAW_OUTPUT, lengths),
            len(tokens),
        )
        head, tail = frame.halves(response.id)
        if head + tokens + tail != recorded:
            raise ValueError("the recorded frame has fields in another order")
        return frame

    def halves(self, request_id: str) -> tuple[bytes, bytes]:
        """What comes before the tokens, and after them."""
        named = self.before_id + (_field(_ID, request_id.encode()) if request_id else b"")
        size = len(named) + len(self.after_id) + self.tokens_bytes + len(self.after_tokens)
        return _INFER_RESPONSE + _length(size) + named + self.after_id, self.after_tokens


class Frames:
    """Everything a scripted server sends."""

    def __init__(self) -> None:
        length, end = read_recording("length").frames, read_recording("end_at_once").frames
        self.token = TokenFrame.cut(length[0])
        self.last_token = TokenFrame.cut(length[-1])
        self._end = TokenFrame.cut(end[0])
        self._whole = _message("whole")
        self._empty_final = _message("stop_unknown")
        self._engine_error = _message("miss")
        self._backend_error = _message("missing_output")
        self._core_error = _message("undeclared_input")
        self.shape_note = _message("wrong_scalar_shape").error_message.partition(". NOTE:")[2]
        self.unary_refusal = read_recording("unary").details

    def end(self, request_id: str) -> bytes:
        """The final response without tokens."""
        return b"".join(self._end.halves(request_id))

    def empty_final(self, request_id: str) -> bytes:
        """The final response without outputs."""
        return _with_id(self._empty_final, request_id)

    def whole(self, request_id: str, tokens: Sequence[int]) -> bytes:
        """All tokens in one final response."""
        message = pb.ModelStreamInferResponse.FromString(self._whole.SerializeToString())
        response = message.infer_response
        response.id = request_id
        response.outputs[0].shape[2] = len(tokens)
        response.raw_output_contents[0] = struct.pack(f"<{len(tokens)}i", *tokens)
        response.raw_output_contents[1] = struct.pack("<i", len(tokens))
        return bytes(message.SerializeToString())

    def engine_error(self, request_id: str, number: int, text: str) -> tuple[bytes, str]:
        """A failure inside the engine, wrapped in its words; the frame, and the text alone."""
        prefix = re.sub(r"requestId \d+", f"requestId {number}", self._engine_error.error_message)
        whole = prefix[: prefix.index(" error: ") + len(" error: ")] + text
        return _with_id(self._engine_error, request_id, whole), whole

    def backend_error(self, request_id: str, text: str) -> bytes:
        """A refusal by the model's own code."""
        return _with_id(self._backend_error, request_id, text)

    def core_error(self, request_id: str, text: str) -> bytes:
        """A refusal by Triton before the model sees the request."""
        return _with_id(self._core_error, request_id, text)


def _message(name: str) -> Any:
    return pb.ModelStreamInferResponse.FromString(read_recording(name).frames[-1])


def _with_id(template: Any, request_id: str, error_message: str = "") -> bytes:
    message = pb.ModelStreamInferResponse()
    message.CopyFrom(template)
    message.infer_response.id = request_id
    message.error_message = error_message
    return bytes(message.SerializeToString())


def _field(tag: bytes, value: bytes) -> bytes:
    return tag + _length(len(value)) + value


def _length(size: int) -> bytes:
    """A protobuf varint."""
    encoded = bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)
