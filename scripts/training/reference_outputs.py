"""Write the reference outputs: `python scripts/training/reference_outputs.py`.

Greedy answers of transformers and peft in f32, with the dequantised base weights and the committed fp16
adapters, to `tests/testdata/reference/greedy.json`; what transformers makes of a few conversations with the
model's chat template and tokeniser, to `chat_template.json` beside it. The CPU twin and the router's
renderer are tested against these files. Run it where `train_adapters.py` runs.

Two exact implementations sum in different orders, so their logits differ in the last bits. An answer is
therefore only recorded where the best logit beats the second by `MARGIN` at every step.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tempfile
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
from base_model import NAME, ROOT, prepared_folder, sha256
from peft import PeftModel
from recipes import RECIPES
from reference_prompts import CANDIDATES, TEMPLATE_CASES, WANTED, Messages
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

MARGIN = 0.05
MAX_TOKENS = 32
END_ID = 2
ADAPTERS = ROOT / "demo_adapters"
DESTINATION = ROOT / "tests" / "testdata" / "reference"


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, opened: bool) -> tuple[str, list[int]]:
    """Return the rendered conversation and its token ids, by transformers' own two ways, which must agree."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    direct = tokenizer.apply_chat_template(messages, add_generation_prompt=opened, return_dict=True)[
        "input_ids"
    ]
    if ids != direct:
        raise RuntimeError(f"transformers disagrees with itself about {text!r}")
    return text, ids


@torch.no_grad()
def answer(model: PeftModel, adapter: str | None, prompt: list[int]) -> tuple[list[int], str, float]:
    """Decode greedily with one adapter, or none.

    Returns the new ids without the end id, the finish reason, and the least lead of the best logit over
    the second at any step, that of the end id included.
    """
    if adapter is not None:
        model.set_adapter(adapter)
    with model.disable_adapter() if adapter is None else nullcontext():
        ids = torch.tensor([prompt])
        result = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            eos_token_id=END_ID,
            pad_token_id=END_ID,
            output_logits=True,
            return_dict_in_generate=True,
        )
    margin = min(float(-torch.diff(step[0].topk(2).values)) for step in result.logits)
    new = result.sequences[0, len(prompt) :].tolist()
    return (new[:-1], "stop", margin) if new[-1] == END_ID else (new, "length", margin)


def case(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, kind: str, messages: Messages, names: list[str]
) -> dict[str, object] | None:
    """One reference case, or None where a margin is too small or two adapters agree."""
    text, prompt = render(tokenizer, messages, opened=True)
    outputs: list[dict[str, object]] = []
    for adapter in (None, *names):
        ids, finish, margin = answer(model, adapter, prompt)
        if margin < MARGIN or any(ids == other["output_token_ids"] for other in outputs):
            return None
        outputs.append(
            {
                "adapter": adapter,
                "output_token_ids": ids,
                "text": tokenizer.decode(ids),
                "finish": finish,
                "min_margin": round(margin, 4),
            }
        )
    return {
        "kind": kind,
        "messages": messages,
        "rendered": text,
        "prompt_token_ids": prompt,
        "max_tokens": MAX_TOKENS,
        "outputs": outputs,
    }


def greedy_cases(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, names: list[str]
) -> list[dict[str, object]]:
    """Search the candidates of every kind until enough of them pass."""
    found: list[dict[str, object]] = []
    for kind, candidates in CANDIDATES.items():
        passed: list[dict[str, object]] = []
        for messages in candidates:
            if len(passed) == WANTED[kind]:
                break
            if one := case(model, tokenizer, kind, messages, names):
                passed.append(one)
            print(f"{kind}: {'kept' if one else 'dropped'} {messages[-1]['content']!r}", flush=True)
        if len(passed) < WANTED[kind]:
            raise RuntimeError(f"too few candidates of kind {kind!r} keep the margin; add some")
        found += passed
    return found


def template_cases(tokenizer: PreTrainedTokenizerBase) -> list[dict[str, object]]:
    """Render and tokenise the template's cases."""
    result: list[dict[str, object]] = []
    for name, (messages, opened) in TEMPLATE_CASES.items():
        text, ids = render(tokenizer, messages, opened=opened)
        result.append(
            {
                "name": name,
                "messages": messages,
                "add_generation_prompt": opened,
                "rendered": text,
                "token_ids": ids,
            }
        )
    return result


def provenance(base: Path) -> dict[str, object]:
    """The provenance of the outputs: program versions and digests of the base model's files."""
    return {
        "made_by": "scripts/training/reference_outputs.py",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")}
        | {"python": platform.python_version()},
        "model": {
            "name": NAME,
            "dtype": "float32",
            "weights_sha256": sha256(base / "model.safetensors"),
            "tokenizer_sha256": sha256(base / "tokenizer.json"),
            "chat_template_sha256": sha256(base / "chat_template.jinja"),
        },
    }


def write(name: str, content: dict[str, object]) -> None:
    """Write one reference file, each list of token ids on one line."""
    DESTINATION.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[\n[\d,\s]+\]", lambda ids: re.sub(r"\s+", "", ids[0]).replace(",", ", "), text)
    (DESTINATION / name).write_text(text + "\n")


def main() -> None:
    """Write both reference files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tenantry-training")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = prepared_folder(options.cache)
    tokenizer = AutoTokenizer.from_pretrained(base)
    origin = provenance(base)
    write("chat_template.json", {**origin, "cases": template_cases(tokenizer)})

    names = [recipe.name for recipe in RECIPES]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, ADAPTERS / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(ADAPTERS / name, adapter_name=name)
    model.eval()
    adapters = {
        name: {
            "weights_sha256": sha256(ADAPTERS / name / "adapter_model.safetensors"),
            "config_sha256": sha256(ADAPTERS / name / "adapter_config.json"),
        }
        for name in names
    }
    settings = {"end_token_id": END_ID, "margin": MARGIN, "adapters": adapters}
    write("greedy.json", {**origin, **settings, "cases": greedy_cases(model, tokenizer, names)})


if __name__ == "__main__":
    main()
