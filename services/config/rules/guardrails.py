"""Checks guardrails: ids, actions, patterns and replacements."""

from __future__ import annotations

from collections.abc import Sequence

from tenantry.config.v1 import tenant_pb2

from services.common.misleading_text import misleading_in
from services.config.rules.known_fields import choices
from services.config.rules.patterns import (
    MAX_PROGRAM_SIZE_TOGETHER,
    MAX_WORK,
    CheckedPattern,
    check_pattern,
    fit_together,
)
from services.config.rules.report import NAME, NAME_RULE, Report

MAX_REPLACEMENT_BYTES = 256
_NOT_LOOKED_AT = CheckedPattern("was not checked: the patterns before it used up the work allowed", 0, 0)
_INPUT = frozenset({tenant_pb2.GUARDRAIL_STAGE_UNSPECIFIED, tenant_pb2.GUARDRAIL_STAGE_INPUT})
_OUTPUT = frozenset({tenant_pb2.GUARDRAIL_STAGE_UNSPECIFIED, tenant_pb2.GUARDRAIL_STAGE_OUTPUT})


def check_guardrails(rules: Sequence[tenant_pb2.GuardrailRule], report: Report) -> None:
    """Check every rule by itself, and the cost of all of them together."""
    seen: set[str] = set()
    together, work, good = 0, 0, True
    for number, rule in enumerate(rules):
        where = f"guardrails[{number}]"
        if not NAME.fullmatch(rule.rule_id):
            report(f"{where}.rule_id", NAME_RULE)
        elif rule.rule_id in seen:
            report(f"{where}.rule_id", "is there twice")
        seen.add(rule.rule_id)
        if rule.action == tenant_pb2.GUARDRAIL_ACTION_UNSPECIFIED:
            report(f"{where}.action", f"is missing: {choices(tenant_pb2.GuardrailAction.DESCRIPTOR)}")
        checked = (
            check_pattern(rule.pattern) if work <= MAX_WORK else _NOT_LOOKED_AT
        )  # proven: work-is-bounded
        together += checked.program_size
        work += checked.work
        if checked.problem is not None:
            good = False
            report(f"{where}.pattern", checked.problem)
        elif character := misleading_in(rule.pattern, lines=True):
            code, _, _ = character.removeprefix("U+").partition(",")
            report(f"{where}.pattern", f"holds {character}: write it as \\x{{{code}}}")
        _replacement(rule, where, report)
    if together > MAX_PROGRAM_SIZE_TOGETHER:
        what = f"need {together} instructions together, more than {MAX_PROGRAM_SIZE_TOGETHER}"
        report("guardrails", what)
    elif good and not all(
        fit_together([rule.pattern for rule in rules if rule.stage in stage]) for stage in (_INPUT, _OUTPUT)
    ):
        report("guardrails", "do not compile together")


def _replacement(rule: tenant_pb2.GuardrailRule, where: str, report: Report) -> None:
    if not rule.HasField("replacement"):
        return
    size = len(rule.replacement.encode())
    if rule.action != tenant_pb2.GUARDRAIL_ACTION_REDACT:
        report(f"{where}.replacement", "is set, but only REDACT replaces")
    elif size > MAX_REPLACEMENT_BYTES:
        report(f"{where}.replacement", f"has {size} bytes, more than {MAX_REPLACEMENT_BYTES}")
    elif character := misleading_in(rule.replacement):
        report(f"{where}.replacement", f"holds {character}")
