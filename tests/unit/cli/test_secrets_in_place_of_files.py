"""A secret that was given where its file belongs is refused, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli import mesh
from services.common.command_errors import UsageError
from tests.fakes.mutants import without

KEY = "eyJ" + "c2VjcmV0" * 5 + "." + "c2VjcmV0" * 30 + "." + "c2VjcmV0" * 10


def refusal(module):
    with pytest.raises(UsageError) as caught:
        module.read_secret(Path(KEY), "operator's key")
    return f"{caught.value.message} {caught.value.hint} {caught.value.details}"


def test_a_key_in_the_place_of_its_file_is_not_shown():
    said = refusal(mesh)
    assert "c2VjcmV0" not in said
    assert "the operator's key itself was given" in said


def test_that_test_fails_where_any_name_that_cannot_be_opened_is_shown():
    assert KEY in refusal(without(mesh, "no-echo-of-a-key"))


def test_a_file_that_is_missing_is_named():
    with pytest.raises(UsageError, match=r"eyJ\.key"):
        mesh.read_secret(Path("/no-such-folder/eyJ.key"), "key")
