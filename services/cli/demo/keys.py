"""The demo tenants' keys: one file for each, with a key that works."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tenantry.config.v1.credential_pb2 import Key, KeyState

from services.cli.clients.admin import AdminClient
from services.cli.clients.names import short
from services.cli.mesh import read_secret
from services.cli.review.token_claims import read_claims
from services.common.command_errors import UsageError
from services.common.durable_files import replace_file

# A key must not expire while a person tries the mesh.
_LEFT_SECONDS = 3600


async def ensure_key(admin: AdminClient, tenant_id: str, path: Path) -> None:
    """Issue a key unless the file has one that works. It may be missing, damaged, revoked, expired or another tenant's.

    Raises:
        Error: the config service refused.
    """
    key_id = await asyncio.to_thread(_key_id, path)
    if key_id and any(_works(key, key_id) for key in await admin.list_keys(f"tenants/{tenant_id}")):
        return
    answer = await admin.create_key(f"tenants/{tenant_id}")
    await asyncio.to_thread(replace_file, path, answer.secret.encode() + b"\n")


def _key_id(path: Path) -> str:
    try:
        return str(read_claims(read_secret(path, "key")).get("jti", ""))
    except UsageError:
        return ""


def _works(key: Key, key_id: str) -> bool:
    lasts = key.expire_time.seconds > time.time() + _LEFT_SECONDS
    return short(key.name) == key_id and key.state == KeyState.KEY_STATE_ACTIVE and lasts
