"""The generated page lists every field of every resource, and the check notices what is not current."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import gen_protos
from services.cli.reference.catalog import Catalog, load
from services.cli.reference.page import MARK, with_reference

PAGE = Path(__file__).parents[4] / "docs" / "operations" / "tenant-config.md"


def test_every_field_and_every_choice_is_on_the_page():
    catalog, page = load(), PAGE.read_text()
    _, _, generated = page.partition(MARK)
    for name in catalog.topics.values():
        for _, field in catalog.walk(catalog.messages[name], name):
            assert f"| `{field.name}` |" in generated
            for choice in catalog.enums.get(field.enum, ()):
                assert f"- `{choice.name}`: {choice.about}" in generated


def test_the_page_is_current_and_making_it_again_changes_nothing():
    page = PAGE.read_text()
    assert with_reference(page, load()) == page
    assert gen_protos.FIELDS.read_text().startswith("{")


def test_a_page_without_the_mark_is_refused_rather_than_lost():
    with pytest.raises(ValueError, match="lacks the line"):
        with_reference("# A page\n", Catalog({}, {}, {}, {}))
