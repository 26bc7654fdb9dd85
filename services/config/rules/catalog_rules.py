"""Checks base models and pools; reports every violation at once. Pure."""

from __future__ import annotations

import re

from tenantry.config.v1 import adapter_pb2, pool_pb2

from services.common.errors import FieldViolation
from services.common.misleading_text import misleading_in
from services.config.adapters.element_types import ELEMENT_TYPES
from services.config.rules.known_fields import choices, unknown_violations

MAX_ENDPOINTS = 1024
MAX_KV_BLOCK_TOKENS = 1024
SPOKEN_DIALECTS = (adapter_pb2.DIALECT_TRTLLM_ENGINE,)
"""Those that routers have a backend for: requests for another pool would wait for a place and then fail."""
_METRICS_URL = re.compile(r"(?=.{1,256}$)http://[^/?#@ ]+:[0-9]{1,5}/[!-~]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(digest: str) -> bool:
    """Whether this is a SHA-256 in lowercase hex."""
    return _SHA256.fullmatch(digest) is not None


def pool_violations(pool: pool_pb2.Pool, sent: pool_pb2.Pool) -> list[FieldViolation]:
    """Every violation of a pool that shows without other resources; the pool as it would be, and as it was sent."""
    wrong = list(dict.fromkeys(unknown_violations(pool, "pool") + unknown_violations(sent, "pool")))
    if pool.dialect == adapter_pb2.DIALECT_UNSPECIFIED:
        wrong.append(FieldViolation("pool.dialect", f"is missing: {choices(adapter_pb2.Dialect.DESCRIPTOR)}"))
    elif pool.dialect not in SPOKEN_DIALECTS:
        spoken = ", ".join(adapter_pb2.Dialect.Name(dialect) for dialect in SPOKEN_DIALECTS)
        wrong.append(FieldViolation("pool.dialect", f"is not spoken by routers yet: {spoken} is"))
    if not 1 <= len(pool.server_model) <= 128:
        wrong.append(FieldViolation("pool.server_model", "has to have 1 to 128 characters"))
    if character := misleading_in(pool.server_model):
        wrong.append(FieldViolation("pool.server_model", f"holds {character}"))
    if not 1 <= len(pool.endpoints) <= MAX_ENDPOINTS:
        wrong.append(FieldViolation("pool.endpoints", f"has {len(pool.endpoints)}, not 1 to {MAX_ENDPOINTS}"))
    for number, endpoint in enumerate(pool.endpoints):
        where = f"pool.endpoints[{number}].target"
        if character := misleading_in(endpoint.target):
            wrong.append(FieldViolation(where, f"holds {character}"))
        elif not _is_target(endpoint.target):
            wrong.append(FieldViolation(where, "is neither unix:/path nor host:port"))
        if endpoint.metrics_url and not _METRICS_URL.fullmatch(endpoint.metrics_url):
            where = f"pool.endpoints[{number}].metrics_url"
            wrong.append(FieldViolation(where, "is not http://host:port/path of at most 256 characters"))
    for field in ("concurrent_requests", "adapters", "adapter_rank", "kv_tokens", "queued_requests"):
        if getattr(pool.capacity, field) < 1:
            wrong.append(FieldViolation(f"pool.capacity.{field}", "has to be at least 1"))
    return wrong + _share_violations(pool.capacity) + _rendition_violations(pool)


def _share_violations(capacity: pool_pb2.Capacity) -> list[FieldViolation]:
    wrong: list[FieldViolation] = []
    if not 0 <= capacity.headroom_requests < max(capacity.concurrent_requests, 1):
        most = f"less than {capacity.concurrent_requests}, concurrent_requests"
        actual = f"is {capacity.headroom_requests}; it has to be at least 0 and {most}"
        wrong.append(FieldViolation("pool.capacity.headroom_requests", actual))
    blocks = capacity.HasField("kv_block_tokens")
    if blocks and not 1 <= capacity.kv_block_tokens <= MAX_KV_BLOCK_TOKENS:
        actual = f"is {capacity.kv_block_tokens}, not 1 to {MAX_KV_BLOCK_TOKENS}"
        wrong.append(FieldViolation("pool.capacity.kv_block_tokens", actual))
    return wrong


def _rendition_violations(pool: pool_pb2.Pool) -> list[FieldViolation]:
    wrong: list[FieldViolation] = []
    if not is_sha256(pool.engine_sha256):
        wrong.append(FieldViolation("pool.engine_sha256", "is not a SHA-256 in lowercase hex"))
    if pool.adapter_dtype not in ELEMENT_TYPES:
        wrong.append(FieldViolation("pool.adapter_dtype", f"is not one of {', '.join(ELEMENT_TYPES)}"))
    if pool.adapter_config_columns not in (3, 4):
        wrong.append(FieldViolation("pool.adapter_config_columns", "is not 3 or 4"))
    return wrong


def _is_target(target: str) -> bool:
    if target.startswith("unix:/"):
        return len(target) <= 112
    host, _, port = target.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def model_violations(model: pool_pb2.BaseModel) -> list[FieldViolation]:
    """Every violation of a base model that shows without other resources."""
    wrong = unknown_violations(model, "base_model")
    for field in ("weights_sha256", "tokenizer_sha256", "chat_template_sha256"):
        if not is_sha256(getattr(model, field)):
            wrong.append(FieldViolation(f"base_model.{field}", "is not a SHA-256 in lowercase hex"))
    if model.context_tokens < 1:
        wrong.append(FieldViolation("base_model.context_tokens", "has to be at least 1"))
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "mlp", "vocabulary"):
        if getattr(model.architecture, field) < 1:
            wrong.append(FieldViolation(f"base_model.architecture.{field}", "has to be at least 1"))
    for field in ("end_token_id", "pad_token_id"):
        if not 0 <= getattr(model, field) < max(model.architecture.vocabulary, 1):
            wrong.append(FieldViolation(f"base_model.{field}", "is not a token of the vocabulary"))
    return wrong
