"""Compiled patterns are kept by bytes; who holds most loses first, the oldest of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.guardrails.pattern_cache import PatternCache, size_bytes
from services.router.guardrails.pattern_sets import PatternSet


def patterns(size: int = 100) -> PatternSet:
    compiled: Any = None
    return PatternSet(("x",), (), size, compiled)


ONE = size_bytes(patterns())


def filled(most_sets: float, *uses: tuple[str, str]) -> PatternCache:
    """A cache that tenants have used sets in, in this order."""
    cache = PatternCache(int(most_sets * ONE))
    for tenant, key in uses:
        if cache.use(tenant, key.encode()) is None:
            cache.put(tenant, key.encode(), patterns())
    return cache


def kept(cache: PatternCache, keys: str) -> str:
    return "".join(key for key in keys if cache.peek(key.encode()) is not None)


def test_what_fits_is_kept():
    cache = filled(3, ("a", "x"), ("b", "y"), ("c", "z"))
    assert (kept(cache, "xyz"), cache.bytes) == ("xyz", 3 * ONE)


def test_the_tenant_that_holds_most_loses_what_it_used_longest_ago():
    cache = filled(4, ("b", "p"), ("a", "w"), ("a", "x"), ("a", "y"), ("a", "w"), ("c", "q"))
    assert kept(cache, "pwxyq") == "pwyq"


def test_a_set_that_others_use_stays_for_them():
    cache = filled(2, ("a", "x"), ("b", "x"), ("a", "y"), ("a", "z"))
    assert kept(cache, "xyz") == "xz"


def test_a_set_larger_than_the_cache_is_kept_alone():
    cache = filled(2, ("a", "x"), ("b", "y"))
    cache.put("c", b"large", patterns(100_000))
    assert len(cache) == 1
    assert cache.peek(b"large") is not None


def test_a_set_that_is_not_there_is_not_used():
    cache = PatternCache(ONE)
    assert cache.use("a", b"x") is None
    assert cache.peek(b"x") is None


@pytest.mark.parametrize("size", [0, 46, 5000])
def test_a_set_takes_something(size):
    assert size_bytes(patterns(size)) >= 8192


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("stuvwxyz")), max_size=60))
def test_the_books_are_right(uses):
    cache = filled(3, *uses)
    assert cache.bytes == len(cache) * ONE
    assert cache.bytes <= 3 * ONE
    for uid, held in cache._holdings.items():
        assert held.shares, uid
        assert held.bytes == pytest.approx(sum(held.shares.values()))
    users = {key: sum(key in held.shares for held in cache._holdings.values()) for key in list(cache._kept)}
    assert users == {key: one.users for key, one in cache._kept.items()}
    assert all(users.values())
