"""Settings of the `tenantry` command, read from the environment. An option on the command line wins over a setting."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.cli.given_text import expanded, require_text
from services.common.command_errors import UsageError


def silence_grpc() -> None:
    """Keep gRPC's own log lines off the terminal. Call it before grpc is imported.

    gRPC reads its verbosity from the environment when it loads, and offers no other way. A verbosity that is set stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


class CliSettings(BaseSettings):
    """Where the mesh is, and which files hold keys. Secrets are in files, never in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="TENANTRY_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    state_dir: Path | None = None
    """The local mesh's state directory, as `tenantry up` was given it."""
    address: str | None = None
    """`host:port` of the tenant listener."""
    operations_address: str | None = None
    """`host:port` of the operations listener."""
    ca_file: Path | None = None
    """PEM certificate of the CA that signed the listeners'."""
    key_file: Path | None = None
    """File with the tenant's key, for `chat`."""
    operator_key_file: Path | None = None
    """File with the operator's key, for all that edits config."""
    etcd_binary: Path | None = None
    """An etcd that `tenantry up` runs in place of the packaged one."""
    xdg_state_home: Path | None = Field(default=None, validation_alias="XDG_STATE_HOME")
    """The directory for programs' state (XDG base directory specification)."""

    @property
    def state_path(self) -> Path:
        """The state directory: the one set, else `tenantry` under the XDG state directory.

        Raises:
            UsageError: there is no home directory to keep it in, or its name is not UTF-8.
        """
        if self.state_dir:
            return expanded(self.state_dir)
        # The specification has a relative path ignored.
        if self.xdg_state_home and self.xdg_state_home.is_absolute():
            return self.xdg_state_home / "tenantry"
        try:
            home = Path.home()
        except RuntimeError:
            raise UsageError(
                "this user has no home directory to keep the mesh's state in.",
                "Give --state-dir, or set TENANTRY_STATE_DIR.",
            ) from None
        require_text(str(home), "the home directory's name")
        return home / ".local" / "state" / "tenantry"


def read_settings() -> CliSettings:
    """The settings in the environment.

    Raises:
        UsageError: names a variable that is not UTF-8.
    """
    settings = CliSettings()
    for name, field in CliSettings.model_fields.items():
        variable = str(field.validation_alias or f"TENANTRY_{name.upper()}")
        require_text(str(getattr(settings, name)), f"the environment variable {variable}")
    return settings
