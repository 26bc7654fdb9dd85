"""The cost of checking a config is bounded, even for a hostile one."""

from __future__ import annotations

import pytest
import re2
from tenantry.config.v1 import tenant_pb2

from services.config.rules import guardrails, patterns, size
from services.config.rules.patterns import MAX_UNICODE_CLASSES, MAX_WORK
from services.config.rules.validation import validate_config
from tests.fakes.mutants import changed, without
from tests.unit.config.rules.test_validation import AROUND, good

_COMPILE = re2.compile


class Compiles:
    def __init__(self, monkeypatch):
        self.patterns = []
        monkeypatch.setattr(re2, "compile", self)

    def __call__(self, pattern, options=None):
        self.patterns.append(pattern)
        return _COMPILE(pattern, options)


def hostile(pattern, count=100):
    config = good()
    for number in range(count):
        config.guardrails.add(
            rule_id=f"r{number}", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern=pattern(number)
        )
    return config


def fields_of(config):
    return {violation.field for violation in validate_config(config, AROUND)}


def named(count):
    return {f"tenant.config.guardrails[{number}].pattern" for number in range(count)}


def test_patterns_of_many_unicode_classes_are_not_even_compiled(monkeypatch):
    compiles = Compiles(monkeypatch)
    assert fields_of(hostile(lambda number: r"\pL" * (300 + number % 40))) == named(100)
    assert compiles.patterns == []


def test_that_test_notices_a_bound_that_is_gone(monkeypatch):
    compiles = Compiles(monkeypatch)
    careless = without(patterns, "classes-before-compiling")
    monkeypatch.setattr(guardrails, "check_pattern", careless.check_pattern)
    fields_of(hostile(lambda number: r"\pL" * (300 + number % 40)))
    assert compiles.patterns


@pytest.mark.parametrize("pattern", [r"\pL" * MAX_UNICODE_CLASSES, r"\\pL" * 90, r"\p{Greek}"])
def test_a_class_is_what_a_backslash_makes_one(pattern):
    assert "Unicode classes" not in (patterns.check_pattern(pattern).problem or "")


def large(number):
    return rf"\pL{{{500 + number}}}"


def test_work_for_patterns_that_are_refused_ends(monkeypatch):
    compiles = Compiles(monkeypatch)
    assert fields_of(hostile(large)) == named(100)
    assert len(compiles.patterns) <= MAX_WORK // 5000 + 1


def test_that_test_notices_work_that_nobody_counts(monkeypatch):
    compiles = Compiles(monkeypatch)
    careless = changed(guardrails, "work-is-bounded", "checked = check_pattern(rule.pattern)")
    monkeypatch.setattr("services.config.rules.validation.check_guardrails", careless.check_guardrails)
    fields_of(hostile(large))
    assert len(compiles.patterns) == 100


def test_a_hundred_common_mistakes_are_all_looked_at():
    config = hostile(lambda number: f"(forbidden word number {number}")
    problems = {violation.description for violation in validate_config(config, AROUND)}
    assert problems == {"does not compile: missing )"}


class Looks:
    """Counts the patterns that the rules compile."""

    def __init__(self, monkeypatch):
        self.lengths = []
        monkeypatch.setattr(
            "services.config.rules.validation.check_models",
            lambda config, *_: self.lengths.append(len(config.models)),
        )


def test_lists_that_are_too_long_are_looked_at_in_part(monkeypatch):
    looks = Looks(monkeypatch)
    found = fields_of(tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias()] * 120_000))
    assert "tenant.config.models" in found
    assert looks.lengths == [size.MAX_MODELS]


def test_a_config_that_is_too_large_is_not_looked_at(monkeypatch):
    looks = Looks(monkeypatch)
    found = validate_config(tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias()] * 200_000), AROUND)
    assert [violation.field for violation in found] == ["tenant.config"]
    assert looks.lengths == []
