"""Parses filters of tenant lists, a small part of AIP-160. Pure.

filter = term { "AND" term }
term   = "state" "=" ("ACTIVE" | "SUSPENDED")
       | "pool" "=" text
       | "display_name" ("=" | ":") text     `:` for contains, ignoring case
text   = a word, or anything in double quotes
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tenantry.config.v1 import tenant_pb2

from services.common.errors import FieldViolation, InvalidArgumentError
from services.config.state.records import TenantRecord

MAX_FILTER = 512
MAX_TERMS = 8
Wanted = Callable[[TenantRecord], bool]
_TERM = re.compile(
    r'\s*(?P<field>[a-z_]+)\s*(?P<operator>[=:])\s*(?:"(?P<quoted>[^"]*)"|(?P<word>[^\s"]+))\s*'
)
_STATES = {"ACTIVE": tenant_pb2.TENANT_STATE_ACTIVE, "SUSPENDED": tenant_pb2.TENANT_STATE_SUSPENDED}
_AND = re.compile(r"AND\b")


def parse_filter(text: str) -> Wanted:
    """Parse a filter into a predicate; an empty filter accepts all tenants.

    Raises:
        InvalidArgumentError: it is not a filter, or too long.
    """
    if not text.strip():
        return lambda _record: True
    if len(text) > MAX_FILTER:
        raise _wrong(f"has {len(text)} characters, more than {MAX_FILTER}")
    terms: list[Wanted] = []
    place = 0
    while True:
        term = _TERM.match(text, place)
        if term is None or len(terms) == MAX_TERMS:
            raise _wrong(f"is not understood from character {place + 1} on")
        terms.append(_term(term))
        place = term.end()
        if place == len(text):
            return lambda record: all(term(record) for term in terms)
        joined = _AND.match(text, place)
        if joined is None:
            raise _wrong(f"is not understood from character {place + 1} on")
        place = joined.end()


def _term(term: re.Match[str]) -> Wanted:
    field, operator = term["field"], term["operator"]
    value = term["quoted"] if term["quoted"] is not None else term["word"]
    if field == "state" and operator == "=":
        if value not in _STATES:
            raise _wrong(f"knows the states {' and '.join(_STATES)}")
        state = _STATES[value]
        return lambda record: record.stored.state == state
    if field == "pool" and operator == "=":
        return lambda record: record.config.pool == value
    if field == "display_name":
        if operator == "=":
            return lambda record: record.stored.display_name == value
        folded = value.casefold()
        return lambda record: folded in record.stored.display_name.casefold()
    raise _wrong("has a term other than `state =`, `pool =`, `display_name =` and `display_name :`")


def _wrong(description: str) -> InvalidArgumentError:
    return InvalidArgumentError([FieldViolation("filter", description)])
