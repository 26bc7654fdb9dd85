"""Reads a PEFT adapter's adapter_config.json. Pure, and suspicious of it.

What would change the mathematics and is not honoured here is refused, so that an adapter never answers with something
else than it was trained to. That goes for keys of later PEFT releases too: one that is not known must be empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import FieldViolation

CONFIG_FILE = "adapter_config.json"
MAX_RANK = 512

_MAX_NAMED = 20
_HONOURED = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "init_lora_weights", "bias"}
# About training, about where modules are looked for, or without effect while another key is empty.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
# With those, as with true and false, the base model stays as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA)
# move a part of its weights into the adapter, which then fits no server's base model; PEFT writes true into what it
# converted back.
_INITIALISATIONS = ("gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What is honoured of a checked config."""

    rank: int
    """Of every module."""
    scale: float
    """lora_alpha / r, or lora_alpha / sqrt(r) with rank-stabilised LoRA."""
    target_modules: tuple[str, ...] | None
    """Endings of modules' names; None where it is a pattern or is left to PEFT."""

    def wrong_targets(self, held: Iterable[str]) -> list[str]:
        """Say where the modules that a file holds are not those that the config names.

        PEFT leaves out what the config does not name, and starts anew what the file does not hold.

        Args:
            held: Their full names.
        """
        if self.target_modules is None:
            return []
        names = [f".{name}" for name in held]
        missing = [
            f"names {target[:120]!r}, of which the weights hold nothing"
            for target in self.target_modules
            if not any(name.endswith(f".{target}") for name in names)
        ]
        endings = tuple(f".{target}" for target in self.target_modules)
        unnamed = [
            f"does not name {name[1:]}, which the weights hold"
            for name in names
            if not name.endswith(endings)
        ]
        return (missing + unnamed)[:_MAX_NAMED]


def parse_config(data: bytes) -> tuple[LoraConfig, list[FieldViolation]]:
    """Parse a config; where something is wrong with it, the first part of the answer means nothing."""
    wrong: list[FieldViolation] = []
    config = _object(data)
    if config is None:
        return LoraConfig(1, 1.0, None), [FieldViolation(CONFIG_FILE, "is not a JSON object")]

    def refuse(name: str, what: str) -> None:
        wrong.append(FieldViolation(f"{CONFIG_FILE}:{name[:120]}", what))

    if config.get("peft_type") != "LORA":
        refuse("peft_type", "is not LORA")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if (
        not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK
    ):  # proven: rank-is-a-number
        refuse("r", f"is not a number from 1 to {MAX_RANK}")
        rank = 1
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        refuse("lora_alpha", "is not a number above 0")
        alpha = 1
    rank_stabilised = config.get("use_rslora") or False
    if not isinstance(rank_stabilised, bool):
        refuse("use_rslora", "is neither true nor false")
    if config.get("bias", "none") != "none":
        refuse("bias", "is not none")
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in _INITIALISATIONS:
        refuse("init_lora_weights", "changes the base model's weights, or is not known")
    targets = config.get("target_modules")
    if isinstance(targets, list) and not all(isinstance(one, str) for one in targets):
        refuse("target_modules", "is not a list of names")
        targets = None
    others = sorted(config.keys() - _HONOURED - _WITHOUT_EFFECT)
    for name in [name for name in others if config[name]][:_MAX_NAMED]:
        refuse(name, "is not supported")
    scale = float(alpha) / (math.sqrt(rank) if rank_stabilised else rank)
    # A pattern is not looked at: what it matches and the file does not hold, PEFT starts at zero.
    return LoraConfig(rank, scale, tuple(targets) if isinstance(targets, list) else None), wrong


def _object(data: bytes) -> Mapping[str, Any] | None:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
