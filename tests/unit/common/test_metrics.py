"""Metrics are for those who hold the token."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from services.common import metrics as metrics_module
from services.common.metrics import metrics_token, serve_metrics
from services.common.settings import ServiceSettings
from tests.fakes.mutants import replaced


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Counter("tokens", "Tokens.", ["tenant"], registry=registry).labels("uid-acme").inc(7)
    return registry


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def scraped(address, *authorization, path="/metrics"):
    """The status and the text."""
    request = urllib.request.Request(f"http://{address}{path}")
    for value in authorization:
        request.add_header("Authorization", value)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_the_token_opens_the_metrics(registry, address, tmp_path):
    path = tmp_path / "token"
    with serve_metrics(registry, address, path):
        status, text = scraped(address, f"Bearer {path.read_text()}")
    assert status == 200
    assert 'tokens_total{tenant="uid-acme"} 7.0' in text
    assert path.stat().st_mode & 0o777 == 0o600


def opened(registry, address, path, module):
    """Requests without the token that were answered."""
    with module.serve_metrics(registry, address, path):
        token = path.read_text()
        tried = [
            (),
            ("Bearer",),
            ("Bearer ",),
            (f"Basic {token}",),
            (token,),
            (f"Bearer {token}x",),
            ("Bearer \xe9",),
        ]
        answers = {given: scraped(address, *given) for given in tried}
        answers |= {("/",): scraped(address, path="/"), ("/x",): scraped(address, path="/x")}
    return [given for given, (status, text) in answers.items() if status != 401 or "uid-acme" in text]


def test_nothing_else_does(registry, address, tmp_path):
    assert opened(registry, address, tmp_path / "token", metrics_module) == []


def test_that_test_notices_metrics_for_all(registry, address, tmp_path):
    open_to_all = replaced(metrics_module, "_with_token", lambda application, token: application)
    assert len(opened(registry, address, tmp_path / "token", open_to_all)) == 9


def test_a_token_that_is_there_is_kept(tmp_path):
    path = tmp_path / "token"
    first = metrics_token(path)
    assert len(first) > 40
    assert metrics_token(path) == first
    path.write_text("chosen\n")
    assert metrics_token(path) == b"chosen"


def test_an_empty_token_opens_nothing(registry, address, tmp_path):
    path = tmp_path / "token"
    path.touch()
    with pytest.raises(ValueError, match="holds no token"), serve_metrics(registry, address, path):
        pass


def test_metrics_without_a_token_are_not_settings():
    with pytest.raises(ValidationError, match="metrics_address needs metrics_token_path"):
        ServiceSettings(metrics_address="127.0.0.1:9000")
