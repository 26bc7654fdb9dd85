"""Sections are spelled byte for byte as `rfc8785` spells them, and what it refuses is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from services.common import canonical_json as canonical_json_module
from services.common.canonical_json import canonical_json
from tests.fakes.mutants import changed

# All of Unicode, halves of surrogate pairs included.
TEXT = st.text(st.characters(categories=None))
SCALARS = st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats() | TEXT
SECTIONS = st.dictionaries(
    TEXT,
    st.recursive(
        SCALARS, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(TEXT, inner)
    ),
)


def spelled(dumps, section) -> Any:
    """None for what is refused."""
    try:
        return dumps(section)
    except rfc8785.CanonicalizationError:
        return None
    except UnicodeEncodeError:
        # rfc8785 0.1.4 lets this out for keys.
        return None


@given(SECTIONS)
def test_every_section_is_spelled_as_the_reference_spells_it(section):
    assert spelled(canonical_json, section) == spelled(rfc8785.dumps, section)


def test_every_character_is_spelled_as_the_reference_spells_it():
    for start in range(0, 0x110000, 0x800):
        text = "".join(map(chr, range(start, start + 0x800)))
        assert spelled(canonical_json, {"text": text}) == spelled(rfc8785.dumps, {"text": text})


@pytest.mark.parametrize("section", [{"text": "\ud800"}, {"\udfff": 1}, {"a": ["x", "\udc00"]}])
def test_half_a_surrogate_pair_is_refused_wherever_it_is(section):
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical_json(section)


def test_keys_are_sorted_by_their_utf_16():
    section = {"\uffff": 1, "\U00010000": 2, "a": 3}
    assert list(json.loads(canonical_json(section))) == ["a", "\U00010000", "\uffff"]


def test_keys_that_are_no_text_are_refused():
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical_json({"a": {1: "x"}})


@pytest.mark.parametrize(
    ("mark", "statement", "section"),
    [
        ("least-escapes", "_string = json.JSONEncoder(ensure_ascii=True).encode", {"text": "é"}),
        (
            "utf-16-order",
            'names.sort(key=lambda name: name.encode("utf-32be"))',
            {"\uffff": 1, "\U00010000": 2},
        ),
    ],
)
def test_those_tests_notice_another_spelling(mark, statement, section):
    broken = changed(canonical_json_module, mark, statement)
    assert spelled(broken.canonical_json, section) != rfc8785.dumps(section)
