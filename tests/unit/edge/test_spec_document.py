"""A spec out of a document: every error names its field, and none repeats a secret."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from services.edge import spec
from services.edge.spec_document import SpecError, read_spec
from tests.fakes.edge_specs import BAD, EXAMPLE, REMOVED, SECRET, edited
from tests.fakes.mutants import without


def violations(document) -> tuple[tuple[str, str], ...]:
    with pytest.raises(SpecError) as caught:
        read_spec(document)
    return caught.value.violations


def test_the_example_is_a_spec():
    read = read_spec(EXAMPLE)
    assert read.listeners.tenant.port == 8443
    assert read.upstreams.router.endpoints == tuple(EXAMPLE["upstreams"]["router"]["endpoints"])


def test_the_example_shows_every_default_as_it_is():
    assert read_spec(edited("limits", REMOVED)) == read_spec(EXAMPLE)


@pytest.mark.parametrize(("place", "value", "field", "text"), BAD, ids=lambda part: str(part)[:40])
def test_a_bad_field_is_named(place, value, field, text):
    ((named, said),) = violations(edited(place, value))
    assert named == field
    assert text in said
    assert "\n" not in said
    assert "c2VjcmV0" not in said


def test_that_test_fails_where_a_pem_in_the_place_of_an_address_is_shown():
    broken = without(spec, "no-echo-of-a-pem")
    with pytest.raises(PydanticCustomError) as caught:
        broken._reachable(SECRET)
    assert "c2VjcmV0" in str(caught.value)


def test_every_bad_field_is_named_at_once():
    document = edited("listeners.tenant.port", 0)
    document["admin"] = "0.0.0.0:1"
    document["limits"] = {"heap_bytes": 1}
    assert [place for place, _ in violations(document)] == [
        "listeners.tenant.port",
        "admin",
        "limits.heap_bytes",
    ]


def test_an_empty_document_lacks_every_required_field():
    assert [place for place, _ in violations({})] == ["listeners", "upstreams", "jwks", "admin"]


def test_a_document_that_never_ends_is_refused():
    endless: dict = {}
    endless["listeners"] = endless
    ((place, text),) = violations(endless)
    assert place.startswith("listeners")
    assert "deep" in text


def test_ports_may_be_the_same_on_different_addresses():
    document = edited("listeners.operations.port", 8443)
    document["listeners"]["tenant"]["address"] = "127.0.0.1"
    document["listeners"]["operations"]["address"] = "127.0.0.2"
    assert read_spec(document).listeners.operations.port == 8443


def test_an_upstream_of_this_host_takes_no_tls():
    for target in ("unix:/run/r.sock", "127.0.0.1:9443", "[::1]:9443", "localhost:9443"):
        assert read_spec(edited("upstreams.router", {"endpoints": [target]})).upstreams.router.tls is None


def test_a_private_key_is_in_no_representation_of_a_spec():
    assert "c2VjcmV0" not in repr(read_spec(edited("listeners.tenant.private_key", {"inline": SECRET})))
