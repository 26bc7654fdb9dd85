"""Train the demo adapters: `python scripts/training/train_adapters.py [name...]`.

Needs the packages of `requirements.txt` beside it, in an environment of their own, and the project's
`.venv` (`make venv`) for the base model. Takes about 80 s an adapter on two cores. The same machine,
packages and thread count give the same bytes; another machine gives an adapter as good, with other bytes,
after which `reference_outputs.py` has to run again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
from base_model import NAME, ROOT, prepared_folder
from peft import LoraConfig, get_peft_model
from recipes import RECIPES, Recipe
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

LESSONS = Path(__file__).with_name("lessons.json")
# An adapter has to keep its manner under a tenant's own system prompt, so it sees a few of them.
SYSTEM_PROMPTS = (
    None,
    None,
    "You are a helpful assistant.",
    "You answer the questions of visitors. Be brief.",
    "Answer in one sentence.",
)
BATCH = 8
IGNORED = -100

Example = tuple[list[int], list[int]]


def examples(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, shuffle: random.Random) -> list[Example]:
    """Turn every lesson into (prompt ids, answer ids); the answer ends with the end-of-turn token."""
    result = []
    for question, answer in json.loads(LESSONS.read_text()):
        system = shuffle.choice(SYSTEM_PROMPTS)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = [tokenizer(text)["input_ids"] for text in (prompt, recipe.style(answer) + tokenizer.eos_token)]
        result.append((ids[0], ids[1]))
    return result


def collate(batch: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Pad on the left, so that the answers end together and only their logits need computing.

    Returns ids, attention mask and labels, each [batch, longest], and the longest answer's length.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[row, -length:] = torch.tensor(prompt + answer)
        mask[row, -length:] = 1
        labels[row, -len(answer) :] = torch.tensor(answer)
    return ids, mask, labels, max(len(answer) for _, answer in batch)


def train(recipe: Recipe, base: Path, destination: Path) -> None:
    """Train one adapter and write it to `destination` in fp16."""
    torch.manual_seed(recipe.seed)
    shuffle = random.Random(recipe.seed)  # noqa: S311 - the order of lessons is no secret
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.15
    )
    lessons = examples(recipe, tokenizer, shuffle)
    queue: list[Example] = []
    started = time.monotonic()
    model.train()
    for step in range(recipe.steps):
        if len(queue) < BATCH:
            queue = shuffle.sample(lessons, len(lessons))
        batch, queue = queue[:BATCH], queue[BATCH:]
        ids, mask, labels, answer_tokens = collate(batch, tokenizer.pad_token_id)
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=answer_tokens + 1).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, -answer_tokens:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 4 == 0 or step == recipe.steps - 1:
            elapsed = time.monotonic() - started
            print(f"{recipe.name}: step {step} loss {loss.item():.3f} after {elapsed:.0f} s", flush=True)
    save(model, recipe, destination)


def save(model: torch.nn.Module, recipe: Recipe, destination: Path) -> None:
    """Write the adapter as a PEFT folder: fp16 weights, and a config that names no path of this machine."""
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tensors = load_file(Path(scratch) / "adapter_model.safetensors")
        config = json.loads((Path(scratch) / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = NAME
    config["target_modules"] = sorted(recipe.modules)
    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(halves, destination / "adapter_model.safetensors", metadata={"format": "pt"})
    (destination / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Train the recipes named on the command line, or all of them."""
    names = [recipe.name for recipe in RECIPES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {', '.join(names)} (default: all)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tenantry-training")
    parser.add_argument("--base", type=Path, help="a prepared base model folder, instead of preparing one")
    parser.add_argument("--output", type=Path, default=ROOT / "demo_adapters")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no recipe is called {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(mode=True)
    base = options.base or prepared_folder(options.cache)
    for recipe in RECIPES:
        if not options.names or recipe.name in options.names:
            train(recipe, base, options.output / recipe.name)


if __name__ == "__main__":
    main()
