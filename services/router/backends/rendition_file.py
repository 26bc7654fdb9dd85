"""Reads a rendition: a safetensors file with `lora_weights` [R, W] and `lora_config` INT32 [R, C].

Pure. The format: a 64-bit little-endian header length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from services.router.backends.backend import AdapterTensors

_DATATYPES = {"F16": ("FP16", 2), "BF16": ("BF16", 2), "F32": ("FP32", 4)}
_MAX_HEADER_BYTES = 1 << 20


class RenditionError(ValueError):
    """The file is not a rendition of the expected shape."""


def read_rendition(data: bytes) -> AdapterTensors:
    """The tensors of a rendition.

    Raises:
        RenditionError: says what is wrong, by shape and type only.
    """
    if len(data) < 8:
        raise RenditionError("too short")
    (header_bytes,) = struct.unpack_from("<Q", data)
    if header_bytes > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise RenditionError("the header does not fit")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes])
        weights, config = header["lora_weights"], header["lora_config"]
        datatype, weight_bytes = _DATATYPES[weights["dtype"]]
        rows, width = map(int, weights["shape"])
        config_rows, columns = map(int, config["shape"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RenditionError("lora_weights or lora_config is missing or of another type") from None
    if config["dtype"] != "I32" or config_rows != rows or columns not in {3, 4}:
        raise RenditionError("lora_config does not fit lora_weights")
    body = memoryview(data)[8 + header_bytes :]
    return AdapterTensors(
        weights=_tensor(body, weights, rows * width * weight_bytes),
        weights_shape=(rows, width),
        weights_datatype=datatype,
        config=_tensor(body, config, rows * columns * 4),
        config_shape=(rows, columns),
    )


def _tensor(body: memoryview, entry: dict[str, Any], size_bytes: int) -> bytes:
    try:
        start, end = map(int, entry["data_offsets"])
    except (ValueError, KeyError, TypeError):
        raise RenditionError("a tensor without its place") from None
    if not 0 <= start <= end <= len(body) or end - start != size_bytes:
        raise RenditionError("a tensor whose bytes do not fit its shape")
    return bytes(body[start:end])
