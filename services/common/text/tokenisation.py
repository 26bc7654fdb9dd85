"""The tokeniser of a model: exact ids for rendered conversations and raw prompts.

The mesh's only importer of `tokenizers`. Text never becomes a control token here: the BPE model is loaded without the
added tokens, and only the template's own `Segment`s name them.

Every text is encoded as a batch of one. For a single text the library keeps the interpreter's lock, so that a long text
in a thread would still stop the event loop; for a batch it releases the lock. A batch takes one of the library's own
threads, of which there are as many as cores (or RAYON_NUM_THREADS).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from services.common.text.templates import Segment
from services.common.text.token_bytes import token_bytes


class TokeniserError(ValueError):
    """The bytes are not a tokeniser whose ids would be exact here."""


class Tokeniser:
    """A byte-level BPE tokeniser. Threads may share it."""

    def __init__(self, tokenizer_json: bytes) -> None:
        """Load a `tokenizer.json`.

        Raises:
            TokeniserError: another kind of tokeniser, or damaged.
        """
        try:
            document: dict[str, Any] = json.loads(tokenizer_json)
            added = document["added_tokens"]
            _require_exact(document, added)
            vocabulary = {**document["model"]["vocab"], **{token["content"]: token["id"] for token in added}}
            self._text = Tokenizer.from_str(json.dumps(document | {"added_tokens": []}))
        except TokeniserError:
            raise
        except Exception:  # noqa: BLE001 - the library raises bare Exception for everything it cannot parse
            raise TokeniserError("not a readable tokenizer.json") from None
        self.control_token_ids: dict[str, int] = {token["content"]: token["id"] for token in added}
        """Added tokens by spelling."""
        silent = [token["id"] for token in added if token["special"]]
        self.token_bytes = token_bytes(vocabulary, silent)
        """The bytes of every token id, for `Detokeniser`."""

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Ids of a rendered conversation: those of its whole text, except that forged control tokens stay text."""
        ids: list[int] = []
        for segment in segments:
            if segment.control:
                ids.append(self.control_token_ids[segment.text])
            else:
                ids.extend(self._encoded(segment.text, special=False))
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, with the tokens that the tokeniser itself adds before or after any text."""
        return self._encoded(text, special=True)

    def _encoded(self, text: str, *, special: bool) -> list[int]:
        # "Fast" leaves out the offsets of tokens in the text, which are not needed.
        (encoding,) = self._text.encode_batch_fast([text], add_special_tokens=special)
        ids: list[int] = encoding.ids
        return ids


def _require_exact(document: dict[str, Any], added: list[dict[str, Any]]) -> None:
    """Refuse tokenisers for which the split at control tokens or the detokeniser would be wrong."""
    if document["model"]["type"] != "BPE" or (document.get("decoder") or {}).get("type") != "ByteLevel":
        raise TokeniserError("only byte-level BPE tokenisers are supported")
    if any(token[flag] for token in added for flag in ("single_word", "lstrip", "rstrip", "normalized")):
        raise TokeniserError("added tokens that reach beyond their own spelling are not supported")
    if document.get("normalizer") is not None or _adds_space(document.get("pre_tokenizer") or {}):
        raise TokeniserError("tokenisers that rewrite their input are not supported")


def _adds_space(pre_tokenizer: dict[str, Any]) -> bool:
    return bool(pre_tokenizer.get("add_prefix_space")) or any(
        _adds_space(part) for part in pre_tokenizer.get("pretokenizers", [])
    )
