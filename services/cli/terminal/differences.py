"""Shows differences between two configs: a field, its value before, its value after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from tenantry.config.v1.tenant_version_pb2 import Difference, DifferenceKind

from services.cli.reference.effective import Unset
from services.cli.terminal.output import Styled
from services.cli.visible_text import one_line

COLUMNS = ("FIELD", "BEFORE", "AFTER")
UNSET = Styled("(unset)", "dim")
_NOTHING = Unset()
# Of a longer text, only the part that differs is shown, with a few characters around it.
_LONG = 60
_AROUND = 16


def difference_cells(difference: Difference, unset: Unset = _NOTHING) -> tuple[str, Styled, Styled]:
    """A row of a table."""
    if difference.kind == DifferenceKind.DIFFERENCE_KIND_ADDED:
        return difference.field, _default(unset.before), Styled(_words(difference.after_json), "green")
    if difference.kind == DifferenceKind.DIFFERENCE_KIND_REMOVED:
        return difference.field, Styled(_words(difference.before_json), "red"), _default(unset.after)
    before, after = _apart(_words(difference.before_json), _words(difference.after_json))
    return difference.field, Styled(before, "red"), Styled(after, "green")


def _default(words: str) -> Styled:
    return Styled(f"{words} (default)", "dim") if words else UNSET


def difference_records(
    differences: Iterable[Difference], unset_of: Callable[[str], Unset] = lambda _field: _NOTHING
) -> list[dict[str, object]]:
    """For machines: a side that has no value is left out, or named by its default in words.

    Args:
        differences: the fields that differ.
        unset_of: what a field, given by its path, means where it is not set.
    """
    records = []
    for difference in differences:
        unset = unset_of(difference.field)
        record: dict[str, object] = {"field": difference.field}
        if difference.before_json:
            record["before"] = json.loads(difference.before_json)
        elif unset.before:
            record["before_default"] = unset.before
        if difference.after_json:
            record["after"] = json.loads(difference.after_json)
        elif unset.after:
            record["after_default"] = unset.after
        records.append(record)
    return records


def _words(value_json: str) -> str:
    """A value on one line. A text has no quotes, unless it is empty."""
    value = json.loads(value_json)
    if isinstance(value, str) and value:
        return one_line(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return one_line(value_json)


def _apart(before: str, after: str) -> tuple[str, str]:
    """Cut two long texts down to the part that differs."""
    if max(len(before), len(after)) <= _LONG:
        return before, after
    shorter = min(len(before), len(after))
    start = next((at for at in range(shorter) if before[at] != after[at]), shorter)
    end = next((at for at in range(shorter - start) if before[-1 - at] != after[-1 - at]), shorter - start)
    return _cut(before, start, end), _cut(after, start, end)


def _cut(text: str, same_before: int, same_after: int) -> str:
    first = max(same_before - _AROUND, 0)
    last = len(text) - max(same_after - _AROUND, 0)
    return ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")
