"""Reads a PEFT LoRA adapter from untrusted adapter_config.json and adapter_model.safetensors. Pure.

Safetensors holds no code; pickled weights are not accepted in any form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from services.common.errors import FieldViolation, InvalidArgumentError
from services.config.adapters.element_types import ELEMENT_TYPES
from services.config.adapters.peft_config import CONFIG_FILE, MAX_RANK, parse_config

WEIGHTS_FILE = "adapter_model.safetensors"
_PARENTS = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn") | dict.fromkeys(
    ("gate_proj", "up_proj", "down_proj"), "mlp"
)
_TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,3})\.(self_attn|mlp)\.([a-z]+_proj)\.lora_([AB])\.weight"
)
_TYPE_OF = {kind.safetensors_name: kind for kind in ELEMENT_TYPES.values()}
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of the decoder that an adapter must fit."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int

    def dims(self, module: str) -> tuple[int, int]:
        """Input and output width of a projection."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.mlp),
            "up_proj": (self.hidden, self.mlp),
            "down_proj": (self.mlp, self.hidden),
        }[module]


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted projection: y += scale * B (A x)."""

    layer: int
    module: str
    a: Matrix
    """Shape [rank, in]."""
    b: Matrix
    """Shape [out, rank]."""

    @property
    def rank(self) -> int:
        """The rank of its matrices."""
        return int(self.a.shape[0])

    @property
    def name(self) -> str:
        """The projection's name in the model."""
        return f"model.layers.{self.layer}.{_PARENTS[self.module]}.{self.module}"


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """A checked adapter."""

    scale: float
    """The factor of the product of a module's matrices."""
    modules: tuple[LoraModule, ...]
    """Sorted by layer and module."""

    @property
    def rank(self) -> int:
        """The rank of every module."""
        return self.modules[0].rank


def parse_peft(config: bytes, weights: bytes, shape: Shape) -> PeftAdapter:
    """Parse and check an adapter against the model it is for.

    Raises:
        InvalidArgumentError: names the file and every violation.
    """
    lora, wrong = parse_config(config)
    try:
        tensors = dict(deserialize(weights))  # type: ignore[no-untyped-call]  # the wheel has no types for it
    except (SafetensorError, ValueError):
        raise InvalidArgumentError([*wrong, _weights("is not a safetensors file")]) from None
    modules, more = _modules(tensors, shape)
    if not wrong and not more:
        more = [
            _weights(f"{one.name} has rank {one.rank}, not the config's {lora.rank}")
            for one in modules
            if one.rank != lora.rank
        ]
        unlike = lora.wrong_targets(one.name for one in modules)
        wrong = [FieldViolation(f"{CONFIG_FILE}:target_modules", what) for what in unlike]
    if wrong or more:
        raise InvalidArgumentError([*wrong, *more])
    return PeftAdapter(lora.scale, tuple(modules))


def _weights(what: str) -> FieldViolation:
    return FieldViolation(WEIGHTS_FILE, what)


def _modules(
    tensors: Mapping[str, Mapping[str, Any]], shape: Shape
) -> tuple[list[LoraModule], list[FieldViolation]]:
    wrong: list[FieldViolation] = []
    halves: dict[tuple[int, str], dict[str, Matrix]] = {}
    for name, tensor in sorted(tensors.items()):
        match = _TENSOR.fullmatch(name)
        if match is None or _PARENTS.get(match[3]) != match[2] or int(match[1]) >= shape.layers:
            wrong.append(_weights(f"holds a tensor that is no LoRA matrix of this model: {name[:120]!r}"))
        elif len(tensor["shape"]) != 2 or tensor["dtype"] not in _TYPE_OF:
            wrong.append(_weights(f"{name} is not a matrix of {', '.join(ELEMENT_TYPES)}"))
        elif not np.isfinite(matrix := _matrix(tensor)).all():
            wrong.append(_weights(f"{name} holds a value that is not finite"))
        else:
            halves.setdefault((int(match[1]), match[3]), {})[match[4]] = matrix
    modules = []
    for (layer, module), pair in sorted(halves.items()):
        where = f"layer {layer} {module}"
        if set(pair) != {"A", "B"}:
            wrong.append(_weights(f"{where} lacks one of its two matrices"))
            continue
        a, b = pair["A"], pair["B"]
        width_in, width_out = shape.dims(module)
        if a.shape[1] != width_in or b.shape[0] != width_out or a.shape[0] != b.shape[1]:
            expected = f"[r, {width_in}] and [{width_out}, r]"
            wrong.append(_weights(f"{where} has shapes {a.shape} and {b.shape}, not {expected}"))
        elif not 1 <= a.shape[0] <= MAX_RANK:
            wrong.append(_weights(f"{where} has rank {a.shape[0]}, not 1 to {MAX_RANK}"))
        else:
            modules.append(LoraModule(layer, module, a, b))
    if not modules and not wrong:
        wrong.append(_weights("holds no LoRA matrices"))
    return modules, wrong


def _matrix(tensor: Mapping[str, Any]) -> Matrix:
    kind = _TYPE_OF[tensor["dtype"]]
    return kind.decode(np.frombuffer(tensor["data"], kind.stored)).reshape(tensor["shape"])
