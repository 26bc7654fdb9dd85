"""The compiled config: everything that requests look up, immutable, reached through one reference. Pure.

A request takes the reference once and keeps it to its end, so that no request sees two configs. `compiler` makes it;
nothing here knows the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from services.router.quota.ledger import Allowance
from services.router.text.text_model import TextModel

LORA_SERIAL_BITS = 40
"""Bits of a lora id below the tenant's ordinal: an 8-bit restore epoch and a 32-bit serial."""


class Durability(Enum):
    """When an answer waits for its audit entries."""

    BATCH = auto()
    BLOCKING = auto()
    BLOCKING_STRICT = auto()


class Tier(Enum):
    """How far apart from other tenants a tenant's work is kept."""

    SHARED = auto()
    ISOLATED = auto()
    DEDICATED = auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """Effective limits of one tenant, defaults filled in."""

    requests_per_second: float = 100.0
    request_burst: int = 100
    """Requests above the sustained rate that may come at once."""
    concurrent_requests: int = 64
    input_bytes: int = 262_144
    input_tokens: int | None = None
    """None for what the model's context leaves."""
    tokens_per_minute: int | None = None
    """Input and output together; None for no limit."""
    output_tokens: int | None = None
    """Of one answer; None for what the parameters' bounds leave."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Effective limits of one key, besides its tenant's; None for no limit."""

    requests_per_second: float | None = None
    request_burst: int = 100
    """Requests above the sustained rate that may come at once."""
    concurrent_requests: int | None = None
    tokens_per_minute: int | None = None
    """Input and output together."""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """What a million tokens cost, in micro-units of a currency."""

    input_micro_units: int
    output_micro_units: int

    def micro_units(self, input_tokens: int, output_tokens: int) -> int:
        """What these tokens cost, rounded up."""
        total = input_tokens * self.input_micro_units + output_tokens * self.output_micro_units
        return -(-total // 1_000_000)


@dataclass(frozen=True, slots=True)
class ParameterRules:
    """Defaults for the values that a request leaves unset, and bounds for those it sets."""

    default_max_output_tokens: int = 256
    default_temperature: float = 0.0
    default_top_p: float = 1.0
    default_top_k: int = 0
    max_output_tokens: int = 1024
    min_temperature: float = 0.0
    max_temperature: float = 2.0


@dataclass(frozen=True, slots=True)
class PriorityRules:
    """How a tenant's callers may rank their own requests: 1 low, 2 normal, 3 high."""

    default_priority: int = 2
    max_priority: int = 3


@dataclass(frozen=True, slots=True)
class GuardrailRule:
    """A pattern, and whether it denies or replaces. Patterns are the tenant's own: never logged."""

    rule_id: str
    denies: bool
    """Whether a match is refused; otherwise it is replaced."""
    pattern: str = field(repr=False)
    replacement: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StageRules:
    """The rules for one kind of text, in their order."""

    rules: tuple[GuardrailRule, ...] = ()
    patterns_sha256: bytes = b""
    """The key of the compiled patterns: tenants with the same patterns share them."""


@dataclass(frozen=True, slots=True)
class GuardrailRules:
    """A tenant's guardrails; nothing is compiled before its first use."""

    input: StageRules = StageRules()
    output: StageRules = StageRules()


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model as a request needs it."""

    name: str
    """`models/{model}`."""
    weights_sha256: str
    context_tokens: int
    end_token_id: int
    pad_token_id: int
    text_model: TextModel | None
    """Its tokeniser and chat template; None where this router cannot use them."""

    @property
    def usable(self) -> bool:
        """Whether this router can serve it; other models are served in any case."""
        return self.text_model is not None

    @property
    def text(self) -> TextModel:
        """Its tokeniser and chat template. Shaping refuses requests for a model that is not usable."""
        assert self.text_model is not None, "a model that this router cannot use"
        return self.text_model


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A pool as config describes it; `pool/` runs it."""

    name: str
    """`pools/{pool}`."""
    base_model: str
    dialect: str
    """`TRTLLM_ENGINE`, `TRTLLM_LLMAPI` or `VLLM`."""
    server_model: str
    targets: tuple[str, ...]
    concurrent_requests: int
    """In flight at one endpoint."""
    adapters: int
    """Resident at one endpoint."""
    kv_tokens: int
    """KV cache of one endpoint."""
    queued_requests: int
    """Waiting for the pool, over all endpoints."""
    engine_sha256: str
    adapter_dtype: str
    adapter_config_columns: int
    dedicated_to_uid: str | None
    """The only tenant ever dispatched to it; None for a shared pool."""
    headroom_requests: int = 0
    """Of the places at one endpoint: for tenants below their share only."""
    kv_block_tokens: int = 64
    """The unit in which a server gives out its KV cache."""
    metrics_urls: tuple[tuple[str, str], ...] = ()
    """Targets, and where their metrics are read."""


@dataclass(frozen=True, slots=True)
class AdapterRendition:
    """An adapter version in the form that one kind of model server takes."""

    dialect: str
    lora_id: int
    sha256: str
    artifact_sha256: str
    dtype: str
    config_columns: int
    engine_sha256: str


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable set of weights."""

    adapter: str
    version: int
    base_model: str
    source_sha256: str
    renditions: tuple[AdapterRendition, ...]
    artifact_key: bytes = field(repr=False)
    """Opens the sealed renditions; never logged."""


@dataclass(frozen=True, slots=True)
class AdapterBinding:
    """An adapter version in the form of one pool."""

    version: AdapterVersion
    rendition: AdapterRendition


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """The target of one of a tenant's aliases."""

    alias: str
    base_model: BaseModel
    pool: PoolConfig | None
    """None while no pool serves it."""
    adapter: str
    """The adapter's id; empty for the bare base model."""
    binding: AdapterBinding | None
    """None for the bare base model, and while no rendition fits the pool."""
    system_prompt: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with the config version in force."""

    tenant_uid: str
    name: str
    """`tenants/{tenant}`."""
    ordinal: int
    active: bool
    config_version: int
    config_sha256: str
    tier: Tier
    weight: int
    durability: Durability
    serve_stale: bool
    default_timeout_seconds: float
    max_timeout_seconds: float
    limits: Limits
    parameters: ParameterRules
    targets: Mapping[str, ModelTarget]
    """By alias."""
    default_alias: str
    adapters: Mapping[str, Sequence[AdapterVersion]]
    """By adapter id, newest version first."""
    guardrails: GuardrailRules = GuardrailRules()
    priorities: PriorityRules = PriorityRules()
    allowances: tuple[Allowance, ...] = ()
    """The quotas and spend budgets it has; the config service knows how much."""
    key_limits: Mapping[str, KeyLimits] = field(default_factory=dict)
    """By key id; under the empty one those of every other key."""
    shadow_limits: frozenset[str] = frozenset()
    """Limits that are tried out, as refusals name them: they refuse nothing."""
    prices: Mapping[tuple[str, str], TokenPrice] = field(default_factory=dict)
    """By base model and adapter id; the empty id stands for any adapter, and for none."""

    def price(self, base_model: str, adapter: str) -> TokenPrice | None:
        """What tokens of a base model cost with an adapter; None for nothing."""
        return self.prices.get((base_model, adapter)) or self.prices.get((base_model, ""))


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key's tenant, and whether the key is in force."""

    key_id: str
    tenant_uid: str
    active: bool
    expire_seconds: float
    allows_inference: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole config, as of one revision."""

    revision: int
    tenants: Mapping[str, Tenant]
    """By tenant_uid."""
    keys: Mapping[str, KeyRecord]
    """By key id."""
    pools: Mapping[str, PoolConfig]
    """By name."""
    unusable_models: Mapping[str, str] = field(default_factory=dict)
    """Why this router cannot use some base models, by name."""


def bind_adapter(
    versions: Sequence[AdapterVersion], wanted_version: int, base_model: str, pool: PoolConfig
) -> AdapterBinding | None:
    """The wanted version (0: the newest for this base model) in the form the pool takes, or None."""
    for version in versions:
        if version.base_model != base_model or wanted_version not in {0, version.version}:
            continue
        for rendition in version.renditions:
            if (
                rendition.dialect == pool.dialect
                and rendition.engine_sha256 == pool.engine_sha256
                and rendition.dtype == pool.adapter_dtype
                and rendition.config_columns == pool.adapter_config_columns
            ):
                return AdapterBinding(version, rendition)
        return None
    return None
