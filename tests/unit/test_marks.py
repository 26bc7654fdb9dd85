"""Marks of mutants: each statement that claims to be proven is broken by a test."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.fakes.mutants import NoSuchMarkError, changed, marks_of, replaced, without

ROOT = Path(__file__).parents[2]
SOURCE = """
def allowed(owner, caller):
    if owner != caller:  # proven: owner-only
        return False
    return (
        caller
        is not None  # proven: somebody
    )


class Door:
    def opens(self, caller):
        return allowed("a", caller)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_guarded_module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("a_guarded_module")
    del sys.modules["a_guarded_module"]


def test_a_marked_statement_is_taken_out(module):
    assert not module.Door().opens("b")
    assert without(module, "owner-only").Door().opens("b")
    assert not module.Door().opens("b")


def test_a_marked_statement_becomes_another(module):
    assert changed(module, "somebody", "return caller is None").allowed("a", "a") is False


def test_a_function_is_replaced(module):
    assert replaced(module, "allowed", lambda owner, caller: True).Door().opens("b")
    assert replaced(module, "Door.opens", lambda door, caller: "yes").Door().opens("b") == "yes"


def test_what_is_not_there_is_not_broken(module):
    with pytest.raises(NoSuchMarkError):
        without(module, "nothing")
    with pytest.raises(AttributeError):
        replaced(module, "nothing", print)


def test_every_mark_is_used_by_a_test():
    marks = {
        mark
        for folder in ("services", "triton_models")
        for path in (ROOT / folder).rglob("*.py")
        for mark in marks_of(path.read_text())
    }
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    assert [mark for mark in sorted(marks) if not re.search(rf"[\"']{mark}[\"']", tests)] == []
