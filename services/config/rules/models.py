"""Checks aliases, adapters and system prompts."""

from __future__ import annotations

from tenantry.config.v1 import tenant_pb2

from services.common.misleading_text import misleading_in
from services.config.rules.report import NAME, NAME_RULE, Report, Surroundings, listed
from services.config.rules.serving import bound_version

MAX_PROMPT_BYTES = 16 << 10


def check_models(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    """Check that there are aliases, each once, of an existing base model and with an adapter that fits.

    The default has to be one of them. A system prompt has to leave room in the context of each of its models, as far as
    its tokens were counted; the router also refuses each request whose rendered prompt is too long.
    """
    if not config.models:
        report("models", "has no alias: there has to be at least 1")
    seen: set[str] = set()
    for number, alias in enumerate(config.models):
        where = f"models[{number}]"
        if not NAME.fullmatch(alias.alias):
            report(f"{where}.alias", NAME_RULE)
        elif alias.alias in seen:
            report(f"{where}.alias", "is there twice")
        seen.add(alias.alias)
        if alias.base_model not in around.models:
            report(f"{where}.base_model", f"names no base model; {listed(sorted(around.models))}")
        _adapter(alias, where, config.isolation_tier, around, report)
        if alias.HasField("system_prompt"):
            _prompt(alias.system_prompt, f"{where}.system_prompt", report)
            _fits(alias, alias.system_prompt, f"{where}.system_prompt", around, report)
    if config.default_model and config.default_model not in seen:
        report("default_model", f"is none of the aliases; {listed(sorted(filter(NAME.fullmatch, seen)))}")
    _prompt(config.system_prompt, "system_prompt", report)
    for alias in config.models:
        if not alias.HasField("system_prompt") and not _fits(
            alias, config.system_prompt, "system_prompt", around, report
        ):
            break


def _fits(
    alias: tenant_pb2.ModelAlias, prompt: str, where: str, around: Surroundings, report: Report
) -> bool:
    tokens = around.prompt_tokens.get((alias.base_model, prompt), 0)
    context = around.models.get(alias.base_model)
    if context is None or tokens < context:  # proven: prompts-leave-context
        return True
    report(where, f"has {tokens} tokens, which leaves nothing of the {context} of {alias.base_model}")
    return False


def _adapter(
    alias: tenant_pb2.ModelAlias,
    where: str,
    tier: tenant_pb2.IsolationTier.ValueType,
    around: Surroundings,
    report: Report,
) -> None:
    if not alias.adapter:
        if alias.adapter_version:
            report(f"{where}.adapter_version", "is set without an adapter")
        return
    if tier == tenant_pb2.ISOLATION_TIER_SHARED:
        report(f"{where}.adapter", "is not for the tier SHARED, which uses the base model only")
    versions = around.adapters.get(alias.adapter)
    if not versions:
        report(f"{where}.adapter", f"names no adapter of this tenant; {listed(sorted(around.adapters))}")
        return
    if alias.adapter_version and alias.adapter_version not in versions:
        there = listed(map(str, sorted(versions)))
        report(f"{where}.adapter_version", f"is {alias.adapter_version}, which does not exist; {there}")
        return
    if bound_version(alias, around.adapters) is None:
        report(f"{where}.adapter", "was made for another base model")


def _prompt(prompt: str, where: str, report: Report) -> None:
    size = len(prompt.encode())
    if size > MAX_PROMPT_BYTES:
        report(where, f"has {size} bytes, more than {MAX_PROMPT_BYTES}")
    if character := misleading_in(prompt, lines=True):
        report(where, f"holds {character}")
