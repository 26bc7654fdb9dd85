"""Pins the public keys with which a log was first seen, outside of any bundle.

Trust on first use: check the keys once over another channel, if there is one. From then on a service that shows other
keys is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from tenantry.audit.v1.audit_review_service_pb2 import VerificationKeys

from services.cli.given_text import read_bytes
from services.common.command_errors import CommandError, UsageError
from services.common.durable_files import replace_file

_MAX_PIN_BYTES = 1 << 20


class Pin(BaseModel):
    """The public keys of one log, in the C2SP text form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_uid: str
    log_keys: tuple[str, ...]
    manifest_keys: tuple[str, ...]


def pin_path(state_dir: Path, tenant_uid: str) -> Path:
    """`<state>/pins/{tenant_uid}.json`."""
    return state_dir / "pins" / f"{tenant_uid}.json"


def read_pin(path: Path) -> Pin:
    """Read a pin.

    Raises:
        UsageError: not readable, or not a pin.
    """
    try:
        return Pin.model_validate_json(read_bytes(path, "the pinned keys", _MAX_PIN_BYTES))
    except UsageError as error:
        raise UsageError(error.message, "`tenantry audit export` pins the keys and says where.") from None
    except ValidationError:
        raise UsageError(f"{path} does not hold pinned keys.") from None


def find_pin(state_dir: Path, origins: Sequence[str]) -> Path:
    """The pin of the log with one of these origins.

    An origin that a bundle claims only chooses among keys that were pinned before: it cannot bring its own.

    Raises:
        UsageError: there is none.
    """
    folder = state_dir / "pins"
    for path in sorted(folder.glob("*.json")):
        try:
            pin = read_pin(path)
        except UsageError:
            continue
        if any(key.partition("+")[0] in origins for key in pin.log_keys):
            return path
    which = (
        f"the log {origins[0]}"
        if origins
        else "it: neither checkpoint nor manifest.json says which log it is of"
    )
    raise UsageError(
        f"{folder} holds no keys for {which}.",
        "Give --keys FILE, with keys you have from before and not from the bundle.",
    )


def check_pin(state_dir: Path, tenant_uid: str, shown: VerificationKeys) -> tuple[Path, bool]:
    """Compare the keys that a service shows with the pinned ones. Pin them if there are none yet.

    Returns:
        The pin's path and whether it is new.

    Raises:
        CommandError: the service shows other keys.
    """
    path = pin_path(state_dir, tenant_uid)
    now = Pin(
        tenant_uid=tenant_uid,
        log_keys=tuple(shown.log_keys),
        manifest_keys=tuple(shown.manifest_keys),
    )
    if not path.exists():
        replace_file(path, now.model_dump_json(indent=1).encode() + b"\n")
        return path, True
    if read_pin(path) != now:
        raise CommandError(
            f"the service shows other keys for this log than those pinned in {path}.",
            "Nothing was exported. If the keys were replaced on purpose, check the new ones over another channel with "
            "those who run the audit service, and only then move the pin away.",
        )
    return path, False
