from __future__ import annotations

import asyncio
import logging

import pytest

from services.common.errors import InternalError, NotFoundError, UnavailableError
from services.router.backends.backend import BackendRejectedError
from services.router.guardrails.guardrails import denied
from services.router.request import failure_log
from services.router.request.failure_log import FailureLog
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import replaced


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger=failure_log.__name__)
    return caplog


def test_a_line_names_request_reason_tenant_key_and_rule(lines):
    FailureLog(ManualClock()).failed("r-1", denied("no-secrets"), tenant_uid="t", key_id="k")
    assert lines.messages == ["request r-1 failed: GUARDRAIL_DENIED tenant=t key=k rule_id=no-secrets"]


def test_a_servers_failure_is_named_and_nothing_else_that_led_to_an_error(lines):
    log = FailureLog(ManualClock())
    for cause in (BackendRejectedError("the server failed at the request"), ValueError("a tenant's text")):
        error = UnavailableError("no answer")
        error.__cause__ = cause
        log.failed("r", error, tenant_uid="t", key_id="k")
    assert [message.partition("key=k")[2] for message in lines.messages] == [
        " cause=the server failed at the request",
        "",
    ]


def test_what_callers_bring_about_is_no_warning(lines):
    log = FailureLog(ManualClock())
    for error in (NotFoundError("x"), denied("r"), UnavailableError("x"), InternalError()):
        log.failed("r", error, tenant_uid="t", key_id="k")
    assert [record.levelno for record in lines.records] == [logging.INFO] * 2 + [logging.WARNING] * 2


def test_a_flood_of_one_tenants_refusals_is_ten_lines_and_one_a_second(lines):
    clock = ManualClock()
    log = FailureLog(clock)
    for number in range(100):
        log.failed(f"r-{number}", denied("r"), tenant_uid="t", key_id="k")
    assert len(lines.records) == 10
    log.failed("other-tenant", denied("r"), tenant_uid="u", key_id="k")
    log.failed("other-reason", NotFoundError("x"), tenant_uid="t", key_id="k")
    log.failed("not-known", denied("r"))
    assert [message.split()[1] for message in lines.messages[10:]] == [
        "other-tenant",
        "other-reason",
        "not-known",
    ]
    clock.advance(1.0)
    for number in range(100):
        log.failed(f"later-{number}", denied("r"), tenant_uid="t", key_id="k")
    assert len(lines.records) == 14
    assert "request later-0 " in lines.messages[-1]
    assert lines.messages[-1].endswith("(90 more of this reason were left out)")


def after_a_flood_that_ends(module, lines):
    clock = ManualClock()
    log = module.FailureLog(clock)
    for number in range(13):
        log.failed(f"r-{number}", UnavailableError("x"), tenant_uid="t", key_id="k")
        log.failed(f"u-{number}", denied("r"))
    log.flush()
    assert len(lines.records) == 20
    clock.advance(1.0)
    log.flush()
    log.flush()
    return [(record.levelname, record.getMessage()) for record in lines.records[20:]]


LEFT_OUT = [
    ("WARNING", "3 more requests failed: NO_READY_ENDPOINT tenant=t"),
    ("INFO", "3 more requests failed: GUARDRAIL_DENIED"),
]


def test_what_was_left_out_is_written_once_after_the_failures_stop(lines):
    assert after_a_flood_that_ends(failure_log, lines) == LEFT_OUT


def test_that_test_fails_where_nothing_is_flushed(lines):
    lines.set_level(logging.INFO)
    assert after_a_flood_that_ends(replaced(failure_log, "FailureLog.flush", lambda _: None), lines) == []


async def test_the_log_flushes_by_itself(lines, monkeypatch):
    monkeypatch.setattr(failure_log, "_FLUSH_SECONDS", 0.0)
    log, flushed = FailureLog(ManualClock()), asyncio.Event()
    monkeypatch.setattr(log, "flush", flushed.set, raising=False)
    running = asyncio.create_task(log.run())
    await flushed.wait()
    running.cancel()


def test_a_tenant_that_is_forgotten_takes_no_count_with_it(lines, monkeypatch):
    monkeypatch.setattr(failure_log, "_MAX_KNOWN", 1)
    log = FailureLog(ManualClock())
    for _ in range(12):
        log.failed("r", denied("r"), tenant_uid="t", key_id="k")
    log.failed("r", denied("r"), tenant_uid="u", key_id="k")
    assert "2 more requests failed: GUARDRAIL_DENIED tenant=t" in lines.messages


def test_a_line_without_facts_ends_with_its_reason(lines):
    FailureLog(ManualClock()).failed("r-1", NotFoundError("x"))
    assert lines.messages == [f"request r-1 failed: {NotFoundError('x').reason}"]


def test_what_is_remembered_of_tenants_is_bounded(monkeypatch):
    monkeypatch.setattr(failure_log, "_MAX_KNOWN", 3)
    log = FailureLog(ManualClock())
    for number in range(10):
        log.failed("r", denied("r"), tenant_uid=f"t{number}", key_id="k")
    assert len(log._written) == 3
