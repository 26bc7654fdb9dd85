"""What limits a request: its tenant, and its key where that has limits."""

from __future__ import annotations

from types import SimpleNamespace

from services.router.limits.limited import key_of, limited_of, tenant_of
from services.router.snapshot.model import KeyLimits, Limits

LIMITS = Limits(requests_per_second=5.0, request_burst=2, concurrent_requests=3, tokens_per_minute=100)


def tenant(key_limits=(), shadow=()):
    return SimpleNamespace(
        tenant_uid="u1",
        name="tenants/acme",
        limits=LIMITS,
        key_limits=dict(key_limits),
        shadow_limits=frozenset(shadow),
    )


def test_a_tenant_without_limits_of_keys_limits_alone():
    (own,) = limited_of(tenant(), "k1")
    assert (own.subject, own.name, own.group) == ("u1", "tenants/acme", "limits")
    assert own.limits.concurrent_requests == 3
    assert own.limits.shadow == frozenset()


def test_a_key_that_is_named_has_its_own_and_others_those_of_every_key():
    named, every = KeyLimits(concurrent_requests=1), KeyLimits(tokens_per_minute=7)
    one = tenant([("k1", named), ("", every)])
    assert limited_of(one, "k1")[1].limits.concurrent_requests == 1
    assert limited_of(one, "k1")[1].limits.tokens_per_minute is None
    other = limited_of(one, "k2")[1]
    assert (other.subject, other.name, other.group) == ("u1/k2", "tenants/acme/keys/k2", "key_limits")
    assert other.limits.tokens_per_minute == 7
    assert len(limited_of(tenant([("k1", named)]), "k2")) == 1


def test_each_group_has_its_own_shadow():
    one = tenant(
        [("", KeyLimits(concurrent_requests=1))],
        ["limits.tokens_per_minute", "key_limits.concurrent_requests"],
    )
    own, key = limited_of(one, "k1")
    assert own.limits.shadow == {"tokens_per_minute"}
    assert key.limits.shadow == {"concurrent_requests"}


def test_a_subject_names_its_tenant_and_key():
    assert (tenant_of("u1/k1"), key_of("u1/k1")) == ("u1", "k1")
    assert (tenant_of("u1"), key_of("u1")) == ("u1", "")
