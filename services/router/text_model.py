"""A base model's way with text: template and tokeniser, loaded from digest-pinned artifacts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.artifacts import ArtifactError, ArtifactStore
from services.router.templates import ChatTemplate, TemplateError, Turn
from services.router.tokenisation import Tokeniser, TokeniserError

_KEPT = 32


class TextModelError(ValueError):
    """The artifacts are missing, damaged or of a kind this router cannot use."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """Renders and encodes; immutable and safe to share between threads."""

    tokeniser: Tokeniser
    template: ChatTemplate

    def encode_conversation(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a conversation with the opening of the answer.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        return self.tokeniser.encode(self.template.render(turns))

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text."""
        return self.tokeniser.encode_prompt(text)


@dataclass(slots=True)
class TextModelLoader:
    """Loads text models by digest; keeps the ones used last, since most snapshots change none. Blocking."""

    artifacts: ArtifactStore
    _loaded: OrderedDict[tuple[str, str], TextModel] = field(default_factory=OrderedDict)

    def load(self, tokeniser_sha256: str, template_sha256: str) -> TextModel:
        """Load, or find again.

        Raises:
            TextModelError: says what is wrong, by digest.
        """
        digests = (tokeniser_sha256, template_sha256)
        model = self._loaded.get(digests)
        if model is None:
            try:
                tokeniser = Tokeniser(self.artifacts.read(tokeniser_sha256))
                source = self.artifacts.read(template_sha256).decode()
                model = TextModel(tokeniser, ChatTemplate(source, list(tokeniser.control_token_ids)))
            except (ArtifactError, TokeniserError, TemplateError, UnicodeDecodeError, OSError) as error:
                cause = str(error) if isinstance(error, TokeniserError | TemplateError) else "unreadable"
                raise TextModelError(
                    f"tokeniser {tokeniser_sha256[:12]} with template {template_sha256[:12]}: {cause}"
                ) from None
        self._loaded[digests] = model
        self._loaded.move_to_end(digests)
        while len(self._loaded) > _KEPT:
            self._loaded.popitem(last=False)
        return model
