"""A record is one line, and no character of it commands the reader's terminal."""

from __future__ import annotations

import logging

from services.common import logs
from services.common.misleading_text import misleading_in
from tests.fakes.mutants import without

HOSTILE = "a\r\nb\x1b[2Jc\x9bd\u2028e\u202ef\ud800"


def formatted(module) -> str:
    record = logging.LogRecord("l\x1b", logging.INFO, "f", 1, "said %s", (HOSTILE,), None)
    return module.LineFormatter().format(record) or ""


def test_whatever_a_message_holds_the_line_commands_no_terminal_and_forges_no_line():
    line = formatted(logs)
    assert misleading_in(line) is None
    assert r"INFO l\x1b said a\x0d\x0ab\x1b[2Jc\x9bd\u2028e\u202ef\ud800" in line


def test_that_test_fails_where_lines_are_not_escaped():
    assert formatted(without(logs, "log-lines-are-escaped")) == ""
