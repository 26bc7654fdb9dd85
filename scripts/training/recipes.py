"""The recipes of training, one for each adapter.

Ranks, modules and scales differ on purpose, so that together they cover the engine's cases.
"""

from __future__ import annotations

from dataclasses import dataclass

from styles import Style, butler, json_object, pirate

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """One adapter to train.

    `alpha / rank` is a power of two in every recipe: an engine that folds this scale into the B matrices
    in fp16, as TensorRT-LLM's converter does, then loses no bit against peft, which multiplies later.
    """

    name: str
    style: Style
    rank: int
    alpha: int
    modules: tuple[str, ...]
    learning_rate: float
    steps: int
    seed: int


RECIPES = (
    Recipe("pirate", pirate, 8, 16, ("q_proj", "v_proj"), 4e-3, 48, seed=11),
    Recipe("json", json_object, 4, 8, ATTENTION + MLP, 2e-3, 40, seed=12),
    Recipe("butler", butler, 8, 8, ATTENTION, 4e-3, 44, seed=13),
)
