"""Translates between events and the messages of `tenantry.flow.v1`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tenantry.flow.v1 import flow_service_pb2 as pb

from services.common.rpc.status import from_status, to_status
from services.router.flow.events import (
    AdapterAccepted,
    AdapterMissed,
    Ask,
    ControllerEvent,
    Ended,
    EndpointFailed,
    Enter,
    Entered,
    Granted,
    Held,
    Join,
    Left,
    Refused,
    Reload,
    Report,
    Reserved,
    RouterEvent,
    Used,
    Witness,
    WitnessAck,
)
from services.router.limits.limited import Limited, UsageLimits
from services.router.limits.tenant_limiter import Usage
from services.router.pool.demand import Cost, Demand
from services.router.pool.pool_kind import PoolKind

_ENDLESS_SECONDS = 1e9
_PART_ITEMS = 1000
"""Items of a report in one message: far below its limit of 4 MiB."""


def router_event(event: RouterEvent, now_seconds: float) -> pb.RouterEvent:
    """The message of what a router says; deadlines become times left."""
    if isinstance(event, Enter):
        return pb.RouterEvent(enter=_enter(event))
    if isinstance(event, Ask):
        return pb.RouterEvent(ask=_ask(event, now_seconds))
    if isinstance(event, Used):
        return pb.RouterEvent(used=pb.Used(number=event.number, output_tokens=event.output_tokens))
    if isinstance(event, Ended):
        ended = pb.Ended(
            number=event.number,
            output_tokens=event.output_tokens,
            prompt_unused=not event.prompt_used,
            late=not event.in_time,
        )
        return pb.RouterEvent(ended=ended)
    if isinstance(event, WitnessAck):
        return pb.RouterEvent(witnessed=event.sequence)
    message = pb.RouterEvent()
    setattr(message, _NUMBERED[type(event)], event.number)
    return message


_NUMBERED: dict[type[RouterEvent], str] = {
    Join: "join",
    AdapterAccepted: "adapter_accepted",
    AdapterMissed: "adapter_missed",
    EndpointFailed: "endpoint_failed",
    Left: "left",
}
_OF_NUMBERED: dict[str, Callable[[int], RouterEvent]] = {
    "join": Join,
    "adapter_accepted": AdapterAccepted,
    "adapter_missed": AdapterMissed,
    "endpoint_failed": EndpointFailed,
    "left": Left,
}


def of_router_event(message: pb.RouterEvent, now_seconds: float) -> RouterEvent | None:
    """What a router says; None for an event that a newer router may send."""
    kind = message.WhichOneof("event")
    if kind is None:
        return None
    if kind == "enter":
        return _of_enter(message.enter)
    if kind == "ask":
        return _of_ask(message.ask, now_seconds)
    if kind == "used":
        return Used(message.used.number, message.used.output_tokens)
    if kind == "ended":
        ended = message.ended
        return Ended(ended.number, ended.output_tokens, not ended.prompt_unused, not ended.late)
    if kind == "witnessed":
        return WitnessAck(message.witnessed)
    numbered: RouterEvent = _OF_NUMBERED[kind](getattr(message, kind))
    return numbered


def controller_event(event: ControllerEvent) -> pb.ControllerEvent:
    """The message of what the controller says."""
    if isinstance(event, Granted):
        granted = pb.Granted(
            number=event.number,
            target=event.target,
            send_weights=event.send_weights,
            queued_seconds=event.queued_seconds,
            service_counter=event.service_counter,
            rate_levels=event.rate_levels,
        )
        return pb.ControllerEvent(granted=granted)
    if isinstance(event, Entered):
        return pb.ControllerEvent(entered=event.number)
    if isinstance(event, Reserved):
        return pb.ControllerEvent(reserved=pb.Reserved(number=event.number, rate_levels=event.rate_levels))
    if isinstance(event, Refused):
        return pb.ControllerEvent(refused=pb.Refused(number=event.number, status=to_status(event.error)))
    if isinstance(event, Reload):
        return pb.ControllerEvent(reload=pb.Reload(number=event.number, send_weights=event.send_weights))
    usage = [_usage(used) for used in event.usage]
    return pb.ControllerEvent(witness=pb.Witness(sequence=event.sequence, usage=usage))


def of_controller_event(message: pb.ControllerEvent) -> ControllerEvent | None:
    """What the controller says; None for an event that a newer controller may send."""
    kind = message.WhichOneof("event")
    if kind == "granted":
        granted = message.granted
        return Granted(
            granted.number,
            granted.target,
            granted.send_weights,
            granted.queued_seconds,
            granted.service_counter,
            tuple(granted.rate_levels),
        )
    if kind == "entered":
        return Entered(message.entered)
    if kind == "reserved":
        return Reserved(message.reserved.number, tuple(message.reserved.rate_levels))
    if kind == "refused":
        return Refused(message.refused.number, from_status(message.refused.status))
    if kind == "reload":
        return Reload(message.reload.number, message.reload.send_weights)
    if kind == "witness":
        return Witness(message.witness.sequence, [_of_usage(used) for used in message.witness.usage])
    return None


def report_parts(report: Report, epoch: int, now_seconds: float) -> Iterator[pb.ReportPart]:
    """The messages of a report, each of a bounded size."""
    part = pb.ReportPart(router=report.router, instance_id=report.instance, epoch=epoch)
    items = 0

    def full() -> Iterator[pb.ReportPart]:
        nonlocal part, items
        items += 1
        if items >= _PART_ITEMS:
            yield part
            part, items = pb.ReportPart(), 0

    for held in report.held:
        part.held.append(
            pb.Held(
                enter=_enter(held.enter),
                ask=_ask(held.ask, now_seconds),
                left=held.left,
                target=held.target,
                output_tokens=held.output_tokens,
                service_counter=held.service_counter,
            )
        )
        yield from full()
    for used in report.usage:
        part.usage.append(_usage(used))
        yield from full()
    for pool, tenant_uid, service in report.counters:
        part.counters.append(pb.ServiceCounter(pool=pool, tenant_uid=tenant_uid, service=service))
        yield from full()
    for instance, usages in report.witnessed.items():
        for used in usages:
            part.witnessed.append(pb.WitnessedUsage(instance_id=instance, usage=[_usage(used)]))
            yield from full()
    part.last = True
    yield part


def of_report_parts(parts: Iterable[pb.ReportPart], now_seconds: float) -> Report:
    """The report of its messages."""
    whole = pb.ReportPart()
    for part in parts:
        whole.MergeFrom(part)
    witnessed: dict[str, list[Usage]] = {}
    for kept in whole.witnessed:
        witnessed.setdefault(kept.instance_id, []).extend(_of_usage(used) for used in kept.usage)
    return Report(
        router=whole.router,
        instance=whole.instance_id,
        held=[
            Held(
                _of_enter(held.enter),
                _of_ask(held.ask, now_seconds),
                held.left,
                held.target,
                held.output_tokens,
                held.service_counter,
            )
            for held in whole.held
        ],
        usage=[_of_usage(used) for used in whole.usage],
        counters=[(one.pool, one.tenant_uid, one.service) for one in whole.counters],
        witnessed=witnessed,
    )


def _enter(enter: Enter) -> pb.Enter:
    return pb.Enter(
        number=enter.number,
        limited=[_limited(one) for one in enter.limited],
        confirms=enter.confirms,
        counted=enter.counted,
    )


def _of_enter(message: pb.Enter) -> Enter:
    limited = tuple(_of_limited(one) for one in message.limited)
    return Enter(message.number, limited, message.confirms, message.counted)


def _limited(limited: Limited) -> pb.Limited:
    limits = limited.limits
    return pb.Limited(
        subject=limited.subject,
        name=limited.name,
        requests_per_second=limits.requests_per_second,
        request_burst=limits.request_burst,
        concurrent_requests=limits.concurrent_requests,
        tokens_per_minute=limits.tokens_per_minute,
        shadow=limits.shadow,
    )


def _of_limited(message: pb.Limited) -> Limited:
    limits = UsageLimits(
        message.requests_per_second if message.HasField("requests_per_second") else None,
        message.request_burst,
        message.concurrent_requests if message.HasField("concurrent_requests") else None,
        message.tokens_per_minute if message.HasField("tokens_per_minute") else None,
        frozenset(message.shadow),
    )
    return Limited(message.subject, message.name, limits)


def _ask(ask: Ask, now_seconds: float) -> pb.Ask:
    pool, demand = ask.pool, ask.demand
    return pb.Ask(
        number=ask.number,
        pool=pool.name,
        base_model=pool.base_model,
        server_model=pool.server_model,
        dialect=pool.dialect,
        dedicated_to_uid=pool.dedicated_to_uid,
        input_tokens=demand.cost.input_tokens,
        max_output_tokens=demand.cost.max_output_tokens,
        lora_id=demand.lora_id,
        weight=demand.weight,
        priority=demand.priority,
        left_seconds=min(demand.deadline - now_seconds, _ENDLESS_SECONDS),
        joins=ask.joins,
        tenant_uid=demand.tenant_uid,
    )


def _of_ask(message: pb.Ask, now_seconds: float) -> Ask:
    pool = PoolKind(
        message.pool,
        message.base_model,
        message.server_model,
        message.dialect,
        message.dedicated_to_uid if message.HasField("dedicated_to_uid") else None,
    )
    demand = Demand(
        tenant_uid=message.tenant_uid,
        cost=Cost(message.input_tokens, message.max_output_tokens),
        lora_id=message.lora_id if message.HasField("lora_id") else None,
        weight=message.weight,
        priority=message.priority,
        deadline=now_seconds + message.left_seconds,
    )
    return Ask(message.number, pool, demand, message.joins)


def _usage(used: Usage) -> pb.Usage:
    return pb.Usage(
        subject=used.subject,
        rate_level=used.rate_level,
        reserved_tokens=used.reserved_tokens,
        spent=[pb.SpentTokens(age_seconds=age, tokens=tokens) for age, tokens in used.spent_tokens],
    )


def _of_usage(message: pb.Usage) -> Usage:
    spent = [(one.age_seconds, one.tokens) for one in message.spent]
    return Usage(message.subject, message.rate_level, message.reserved_tokens, spent)
