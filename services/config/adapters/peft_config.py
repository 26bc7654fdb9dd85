"""Reads a PEFT adapter's adapter_config.json, which is untrusted. Pure.

A setting that changes the mathematics and is not supported is refused, so that an adapter never answers differently
from its training. An unknown key, such as one of a later PEFT release, has to be empty.
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
# They concern training or the search for modules, or have no effect while another key is empty.
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
# These leave the base model as it is, like true and false. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) move a part
# of its weights into the adapter, which then fits no server's base model. PEFT writes true when it converts such an
# adapter back.
_INITIALISATIONS = ("gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The settings of a checked config that have an effect."""

    rank: int
    """The rank of every module."""
    scale: float
    """lora_alpha / r, or lora_alpha / sqrt(r) with rank-stabilised LoRA."""
    target_modules: tuple[str, ...] | None
    """Suffixes of modules' names; None where it is a pattern or is left to PEFT."""

    def wrong_targets(self, held: Iterable[str]) -> list[str]:
        """Find differences between the modules in a file and those that the config names.

        PEFT ignores modules that the config does not name, and initialises those that the file does not hold.

        Args:
            held: the full names of the modules in the file.
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
    """Parse a config; returns its settings and its violations. With violations, the settings mean nothing."""
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
    # A pattern is not checked: PEFT initialises to zero what it matches and the file does not hold.
    return LoraConfig(rank, scale, tuple(targets) if isinstance(targets, list) else None), wrong


def _object(data: bytes) -> Mapping[str, Any] | None:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
