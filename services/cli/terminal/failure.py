"""Shows an error to a person or a program: the cause, what to do next, and the id of the request."""

from __future__ import annotations

from services.cli.clients.listener import Obstacle, UnreachableError
from services.cli.documents import to_json
from services.cli.terminal.output import Output
from services.common.command_errors import FAILURE_STATUS, CommandError
from services.common.errors import Error, InvalidArgumentError, Reason, ResourceExhaustedError
from services.common.spoken_durations import spoken

_NEXT: dict[Reason, str] = {
    Reason.INVALID_FIELD: "Nothing was changed. Correct the fields above, then repeat.",
    Reason.KEY_REFUSED: "Give another key with --key-file: `chat` takes a tenant's (`tenantry key create`), "
    "`audit` a reviewer's grant, all else an operator's.",
    Reason.ROLE_FORBIDS: "Ask an operator with that role, for example a platform-admin.",
    Reason.RESOURCE_NOT_FOUND: "`list` shows what exists, `tenant versions` a tenant's config versions.",
    Reason.MODEL_NOT_FOUND: "`tenantry chat --models` lists the tenant's models.",
    Reason.ADAPTER_NOT_FOUND: "`tenantry adapter list` lists the tenant's adapters.",
    Reason.RESOURCE_EXISTS: "Choose another name, or update the existing one.",
    Reason.ETAG_MISMATCH: "Another edit came first. Get it again, then repeat the change.",
    Reason.CONCURRENT_CHANGE: "Another edit came first. Get it again, then repeat the change.",
    Reason.RESOURCE_IN_USE: "Nothing was changed. Remove what still uses it, then repeat.",
    Reason.GUARDRAIL_DENIED: "Change what is asked.",
    Reason.GUARDRAIL_UNUSABLE: "An operator must change the rule's pattern.",
    Reason.TENANT_SUSPENDED: "An operator suspended the tenant; ask them.",
    Reason.STORE_UNAVAILABLE: "Config cannot be edited until etcd is back; requests go on being served.",
    Reason.NO_SNAPSHOT: "The router is starting.",
    Reason.AUDIT_UNAVAILABLE: "The audit service cannot write a durable record now. Every edit needs one, and by its "
    "audit policy so may a tenant's request.",
    Reason.DEADLINE_PASSED: "Give it longer with --timeout, or ask for less.",
    Reason.LOG_DAMAGED: "Keep the state directory as it is, and report it to those who run the mesh.",
}
_OBSTACLES: dict[Obstacle, str] = {
    Obstacle.NO_ANSWER: "no mesh answers at {address}.",
    Obstacle.CERTIFICATE: "the server at {address} shows a certificate that the CA file does not vouch for.",
    Obstacle.NOTHING_BEHIND: "the edge at {address} answers, but the service behind it does not.",
    Obstacle.ANOTHER_SERVICE: "the server at {address} does not offer this call.",
}
_UNREACHABLE: dict[Obstacle, str] = {
    Obstacle.NO_ANSWER: "Start a mesh with `make up`, or give --address and --ca-file of another one.",
    Obstacle.CERTIFICATE: "Give the CA of this mesh with --ca-file; another state directory has another CA.",
    Obstacle.NOTHING_BEHIND: "The service is starting or has stopped. Try again in a second, or look at `tenantry up`.",
    Obstacle.ANOTHER_SERVICE: "Check --address: `chat` needs the tenant listener, all else the operations listener.",
}


def exit_status(error: Error | CommandError) -> int:
    """The exit status of the process."""
    return error.exit_status if isinstance(error, CommandError) else FAILURE_STATUS


def report(error: Error | CommandError, output: Output) -> None:
    """Show an error on stderr; to a program as one line of JSON."""
    message, fields, hint = _message(error), _fields(error), next_step(error)
    if output.json:
        output.failure(to_json({"error": _record(error, message, fields, hint)}))
        return
    output.failure(f"Error: {message}", style="bold red")
    for field, description in fields:
        output.failure(f"  {field}: {description}" if field else f"  {description}")
    if hint:
        output.failure(hint)
    if isinstance(error, Error) and error.request_id:
        output.failure(f"Request id: {error.request_id}")


def next_step(error: Error | CommandError) -> str:
    """The next step for the caller, in a sentence or two."""
    if isinstance(error, CommandError):
        return error.hint
    if isinstance(error, UnreachableError):
        return _UNREACHABLE[error.obstacle]
    reason = error.reason
    if reason is Reason.INTERNAL:
        # The edge answers without our details. Its code still stands for one of our reasons.
        reason = error.default_reason
    hint = _NEXT.get(reason, "")
    if (fits := error.metadata.get("fits_now", "0")) not in {"", "0"}:
        hint = f"{hint} A request of up to {fits} tokens, prompt and answer together, fits now."
    rule_id = error.metadata.get("rule_id", "")
    if rule_id and rule_id not in error.message:
        hint = f"It is the rule {rule_id}. {hint}"
    if error.retry_after_seconds is not None:
        hint = f"{hint} Try again in {spoken(error.retry_after_seconds)}.".strip()
    return hint or (
        "Look for the request id in the logs of the mesh."
        if error.request_id
        else "Ask those who run the mesh."
    )


def _message(error: Error | CommandError) -> str:
    if isinstance(error, UnreachableError):
        return _OBSTACLES[error.obstacle].format(address=error.address)
    if isinstance(error, InvalidArgumentError) and error.violations:
        return "the request is invalid."
    text = error.message or "the server gave no reason"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _fields(error: Error | CommandError) -> list[tuple[str, str]]:
    if isinstance(error, InvalidArgumentError):
        return [(violation.field, violation.description) for violation in error.violations]
    if isinstance(error, CommandError):
        return list(error.details)
    if isinstance(error, ResourceExhaustedError):
        return [(violation.subject, violation.description) for violation in error.violations]
    return []


def _record(
    error: Error | CommandError, message: str, fields: list[tuple[str, str]], hint: str
) -> dict[str, object]:
    record: dict[str, object] = {"message": message}
    if isinstance(error, UnreachableError):
        record["code"] = error.code.name
    elif isinstance(error, Error):
        record |= {"code": error.code.name, "reason": error.reason.value, "metadata": error.metadata}
    if fields:
        record["violations"] = [{"field": field, "description": text} for field, text in fields]
    if isinstance(error, Error) and error.request_id:
        record["request_id"] = error.request_id
    if isinstance(error, Error) and error.retry_after_seconds is not None:
        record["retry_after_seconds"] = error.retry_after_seconds
    if hint:
        record["next"] = hint
    return record
