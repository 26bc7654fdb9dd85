"""docs/errors.md is the one documented place of reasons: it lists each, once, with its code."""

from __future__ import annotations

import re
from pathlib import Path

from services.common.errors import Code, Reason

DOCUMENT = Path(__file__).parents[3] / "docs" / "errors.md"


def test_every_reason_is_documented_once():
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \| .+ \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(reason for reason, _ in rows) == sorted(reason.value for reason in Reason)
    assert {code for _, code in rows} <= set(Code.__members__)
