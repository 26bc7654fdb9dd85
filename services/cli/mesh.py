"""Finds the mesh and the key of a command: in its options, then in the environment, then in the local mesh."""

from __future__ import annotations

import re
import ssl
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from services.cli.clients.admin import AdminClient
from services.cli.clients.inference import InferenceClient
from services.cli.clients.listener import Listener
from services.cli.clients.names import short
from services.cli.clients.review import ReviewClient
from services.cli.given_text import read_bytes
from services.cli.settings import CliSettings
from services.common.command_errors import CommandError, UsageError
from services.common.rpc.targets import UNIX_PREFIX
from services.local.profile import Endpoints, load_endpoints

_MAX_KEY_BYTES = 4096
_MAX_CA_BYTES = 1 << 20
# Keys and grants are JWTs (RFC 7519), which begin with the base64url of `{"`.
_JWT = re.compile(r"eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}")
_START = "Start a mesh with `make up`; for one elsewhere set --address, --ca-file and --key-file."


@dataclass(frozen=True, slots=True)
class Mesh:
    """The options that name a mesh, each resolved when it is needed: a command fails only for what it uses."""

    settings: CliSettings
    state_dir: Path
    address: str | None = None
    ca_file: Path | None = None
    key_file: Path | None = None

    @property
    def endpoints(self) -> Endpoints | None:
        """The local mesh, if one was started in the state directory."""
        return load_endpoints(self.state_dir)

    def inference(self, tenant: str | None) -> AbstractAsyncContextManager[InferenceClient]:
        """A tenant's client. Without a name it is the tenant of the only local key."""
        return InferenceClient.connect(self._tenant_listener(), self._tenant_key(tenant))

    def admin(self) -> AbstractAsyncContextManager[AdminClient]:
        """An operator's client."""
        return AdminClient.connect(self.operations_listener(), self._operator_key())

    def review(self, grant: str) -> AbstractAsyncContextManager[ReviewClient]:
        """A reviewer's client."""
        return ReviewClient.connect(self.operations_listener(), grant)

    def _tenant_listener(self) -> Listener:
        local = self.endpoints
        published = local.tenant_address if local else None
        return self._listener(self.address or self.settings.address or published, local)

    def operations_listener(self) -> Listener:
        """The listener for operators and reviewers."""
        local = self.endpoints
        published = local.operations_address if local else None
        return self._listener(self.address or self.settings.operations_address or published, local)

    def _listener(self, address: str | None, local: Endpoints | None) -> Listener:
        if not address:
            raise CommandError(f"no mesh is running: {self.state_dir} names none.", _START)
        require_address(address)
        ca_path = self.ca_file or self.settings.ca_file
        known = (local.tenant_address, local.operations_address) if local else ()
        # The local CA vouches for the local mesh only.
        if ca_path is None and local is not None and address in known:
            ca_path = local.ca_path
        if ca_path is not None:
            require_ca(ca_path)
        return Listener(address, ca_path)

    def _tenant_key(self, tenant: str | None) -> str:
        source = self.key_file or (None if tenant else self.settings.key_file)
        if source is not None:
            return read_secret(source, "key")
        local = self.endpoints
        keys = dict(local.keys) if local else {}
        if tenant is not None:
            tenant = short(tenant)
            if tenant in keys:
                return read_secret(keys[tenant], "key")
            if self.settings.key_file is not None:
                return read_secret(self.settings.key_file, "key")
            raise CommandError(
                f"there is no key for tenant {tenant} here.",
                f"Make one: `tenantry key create {tenant} --out {tenant}.key`, then give `--key-file "
                f"{tenant}.key`.",
            )
        if len(keys) == 1:
            return read_secret(next(iter(keys.values())), "key")
        if keys:
            raise UsageError(f"for which tenant? Give --tenant with one of: {', '.join(sorted(keys))}.")
        raise UsageError("there is no key for the call.", "Give --key-file, or set TENANTRY_KEY_FILE.")

    def _operator_key(self) -> str:
        local = self.endpoints
        source = self.key_file or self.settings.operator_key_file or (local and local.operator_key_path)
        if not source:
            raise UsageError(
                "there is no operator's key for the call.",
                "Give --key-file, or set TENANTRY_OPERATOR_KEY_FILE.",
            )
        return read_secret(source, "operator's key")


def read_secret(source: Path, what: str) -> str:
    """The secret in a file, or on stdin for `-`.

    Raises:
        UsageError: not readable, not one line of printable ASCII, or the secret itself in place of its file.
    """
    if _JWT.fullmatch(str(source)):  # proven: no-echo-of-a-key
        raise UsageError(
            f"the {what} itself was given, not a file.",
            "Put it in a file that only you can read (mode 0600), and give the file.",
        )
    secret = read_bytes(source, f"the {what}", _MAX_KEY_BYTES).strip()
    if not secret or not all(0x21 <= byte <= 0x7E for byte in secret):
        raise UsageError(f"{source} does not hold a {what}: it is one line of letters, digits and marks.")
    return secret.decode("ascii")


def require_address(address: str) -> None:
    """Refuse what gRPC would take for a name that no server answers to.

    Raises:
        UsageError: it is neither `host:port` nor `unix:/path`.
    """
    if address.startswith(UNIX_PREFIX):
        return
    host, _, port = address.rpartition(":")
    usable = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16
    if not host or not usable or any(not character.isprintable() or character == " " for character in host):
        raise UsageError(f"{address} is not the address of a listener.", "Give HOST:PORT or unix:/PATH.")


def require_ca(path: Path) -> None:
    """Refuse a file from which gRPC could take no certificate, which it would only log.

    Raises:
        UsageError: not readable, or without a certificate.
    """
    data = read_bytes(path, "the CA certificate", _MAX_CA_BYTES)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise UsageError(f"{path} does not hold a CA certificate in PEM form.") from None
