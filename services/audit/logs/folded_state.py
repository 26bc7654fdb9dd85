"""The state of a log up to the end of its segments: the content of `logs/<log_id>/state.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from services.audit.storage.state_files import STATE_VERSION, StateFileError, read_state_file

STATE = "state.json"


@dataclass(slots=True)
class FoldedState:
    """The file's content. The file is written with the log's first bytes, so a log without it is damaged."""

    tenant_uid: str
    log_id: bytes
    size: int = 0
    frontier: list[bytes] = field(default_factory=list)
    segment: int = 0
    segment_bytes: int = 0
    last_time_ns: int = 0
    recurring: dict[bytes, int] = field(default_factory=dict)
    """The index of the newest records of `RECURRING` kinds, by record id."""

    def encode(self) -> bytes:
        """The file's bytes."""
        document = {
            "version": STATE_VERSION,
            "tenant_uid": self.tenant_uid,
            "log_id": self.log_id.hex(),
            "size": self.size,
            "frontier": [item.hex() for item in self.frontier],
            "segment": self.segment,
            "segment_bytes": self.segment_bytes,
            "last_time_ns": self.last_time_ns,
            "recurring": {record_id.hex(): index for record_id, index in self.recurring.items()},
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def read(cls, path: Path) -> FoldedState:
        """Parse the file.

        Raises:
            StateFileError: missing, damaged, or of an unknown version.
        """
        try:
            document = read_state_file(path)
            return cls(
                document["tenant_uid"],
                bytes.fromhex(document["log_id"]),
                document["size"],
                [bytes.fromhex(item) for item in document["frontier"]],
                document["segment"],
                document["segment_bytes"],
                document["last_time_ns"],
                {bytes.fromhex(record_id): index for record_id, index in document["recurring"].items()},
            )
        except OSError:
            raise StateFileError(f"{path.name} is missing or cannot be read") from None
        except (KeyError, TypeError, AttributeError):
            raise StateFileError(f"{path.name} is damaged") from None
