"""`<state>/endpoints.json`: addresses of a mesh that `tenantry up` runs, and the files of the keys it made."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from services.common.command_errors import CommandError
from services.common.durable_files import replace_file

FILE = "endpoints.json"


class Endpoints(BaseModel):
    """A running local mesh, as its supervisor describes it. Holds paths of keys, never keys."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tenant_address: str
    """`host:port` callers and `chat` use."""
    operations_address: str
    """`host:port` operators and reviewers use."""
    ca_path: Path | None
    """PEM certificate of the CA of both listeners; None where they speak plain text, in tests."""
    operator_key_path: Path
    """Holds a platform-admin's key, mode 0600."""
    keys: dict[str, Path]
    """Tenant id to the file that holds a key of it, mode 0600."""
    state_dir: Path
    """Everything the local mesh keeps."""
    metrics: dict[str, str] = {}
    """Process to the `host:port` that serves its Prometheus metrics."""
    metrics_token_path: Path | None = None
    """Holds the token that those ask for, mode 0600."""

    def save(self, state_dir: Path) -> None:
        """Publish to the commands that look in `state_dir`; replaces what was there at once."""
        replace_file(state_dir / FILE, self.model_dump_json(indent=1).encode())


def load_endpoints(state_dir: Path) -> Endpoints | None:
    """The mesh that was last published in a state directory; None if there is none.

    Raises:
        CommandError: the file is not one of ours.
    """
    path = state_dir / FILE
    try:
        return Endpoints.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise CommandError(
            f"{path} is damaged or from another version.",
            "Start the mesh again: `tenantry up` writes it anew.",
        ) from None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}.") from None
