"""Checks with the routers' own code that they can use a base model's tokeniser and chat template."""

from __future__ import annotations

from tenantry.config.v1 import pool_pb2

from services.common.artifacts import ArtifactError, ArtifactStore
from services.common.errors import FieldViolation
from services.common.text.templates import ChatTemplate, TemplateError, Turn
from services.common.text.tokenisation import Tokeniser, TokeniserError
from services.config.rules.catalog_rules import is_sha256

_TOKENISER, _TEMPLATE = "base_model.tokenizer_sha256", "base_model.chat_template_sha256"
_MISSING = "is not in the artifact store"


def text_violations(model: pool_pb2.BaseModel, artifacts: ArtifactStore) -> list[FieldViolation]:
    """Every violation of a base model's artifacts; malformed digests are left to `model_violations`. Blocking."""
    wrong: list[FieldViolation] = []
    tokeniser = _tokeniser(model, artifacts, wrong)
    source = _read(artifacts, model.chat_template_sha256, _TEMPLATE, wrong)
    if tokeniser is None or source is None:
        return wrong
    largest = len(tokeniser.token_bytes) - 1
    if largest >= model.architecture.vocabulary > 0:
        what = f"has tokens up to {largest}, not below {model.architecture.vocabulary}, the vocabulary"
        wrong.append(FieldViolation(_TOKENISER, what))
    try:
        template = ChatTemplate(source.decode(), list(tokeniser.control_token_ids))
        tokeniser.encode(template.render([Turn("user", "Hello.")]))
    except UnicodeDecodeError:
        wrong.append(FieldViolation(_TEMPLATE, "is not UTF-8"))
    except TemplateError as error:
        wrong.append(FieldViolation(_TEMPLATE, f"cannot be used: {error}"))
    return wrong


def _tokeniser(
    model: pool_pb2.BaseModel, artifacts: ArtifactStore, wrong: list[FieldViolation]
) -> Tokeniser | None:
    data = _read(artifacts, model.tokenizer_sha256, _TOKENISER, wrong)
    try:
        return None if data is None else Tokeniser(data)
    except TokeniserError as error:
        wrong.append(FieldViolation(_TOKENISER, f"cannot be used: {error}"))
        return None


def _read(artifacts: ArtifactStore, digest: str, field: str, wrong: list[FieldViolation]) -> bytes | None:
    if not is_sha256(digest):
        # `model_violations` reports it.
        return None
    try:
        return artifacts.read(digest)
    except ArtifactError:
        wrong.append(FieldViolation(field, _MISSING))
        return None
