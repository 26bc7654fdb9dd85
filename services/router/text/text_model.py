"""A base model's chat template and tokeniser, loaded from digest-pinned artifacts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.artifacts import ArtifactError, ArtifactStore
from services.common.text.templates import ChatTemplate, TemplateError, Turn
from services.common.text.tokenisation import Tokeniser, TokeniserError

_KEPT = 32


class TextModelError(ValueError):
    """The artifacts are missing, damaged or of a kind this router cannot use."""

    def __init__(self, problem: str, *, lasting: bool) -> None:
        super().__init__(problem)
        self.lasting = lasting
        """Whether the artifacts themselves are wrong; otherwise reading them again may help."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """Renders and encodes; immutable, and safe to share between threads."""

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
    """Loads text models by digest; keeps those used last, since most snapshots change none. Blocks."""

    artifacts: ArtifactStore
    _loaded: OrderedDict[tuple[str, str], TextModel | TextModelError] = field(default_factory=OrderedDict)

    def load(self, tokeniser_sha256: str, template_sha256: str) -> TextModel:
        """The text model of a tokeniser and a template.

        Raises:
            TextModelError: names the artifacts by digest, and what is wrong.
        """
        digests = (tokeniser_sha256, template_sha256)
        found = self._loaded.get(digests)
        if found is None:
            try:
                found = self._read(*digests)
            except TextModelError as error:
                if not error.lasting:
                    raise
                # Wrong bytes stay wrong, and every snapshot asks for them again.
                found = error
        self._loaded[digests] = found
        self._loaded.move_to_end(digests)
        while len(self._loaded) > _KEPT:
            self._loaded.popitem(last=False)
        if isinstance(found, TextModelError):
            raise TextModelError(str(found), lasting=True)
        return found

    def _read(self, tokeniser_sha256: str, template_sha256: str) -> TextModel:
        try:
            tokeniser = Tokeniser(self.artifacts.read(tokeniser_sha256))
            source = self.artifacts.read(template_sha256).decode()
            return TextModel(tokeniser, ChatTemplate(source, list(tokeniser.control_token_ids)))
        except (ArtifactError, TokeniserError, TemplateError, UnicodeDecodeError, OSError) as error:
            lasting = not isinstance(error, ArtifactError | OSError)
            cause = str(error) if isinstance(error, TokeniserError | TemplateError) else "unreadable"
            raise TextModelError(
                f"tokeniser {tokeniser_sha256[:12]} with template {template_sha256[:12]}: {cause}",
                lasting=lasting,
            ) from None
