"""The position from which the journal is read back, since everything before it is folded: the content of `wal.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from services.audit.storage.frames import SessionMark
from services.audit.storage.state_files import STATE_VERSION, StateFileError, read_state_file

MAX_SESSIONS = 1024


@dataclass(slots=True)
class JournalPosition:
    """The file's content."""

    incarnation: int = 0
    next_batch: int = 1
    previous: bytes = bytes(32)
    sessions: dict[bytes, SessionMark] = field(default_factory=dict)
    """The newest mark of each writer's session, least recently changed first."""
    removed: list[str] = field(default_factory=list)
    """Journal files that are folded. The next start removes those that a crash left."""

    def encode(self) -> bytes:
        """The file's bytes."""
        document = {
            "version": STATE_VERSION,
            "incarnation": self.incarnation,
            "next_batch": self.next_batch,
            "previous": self.previous.hex(),
            "sessions": {
                mark.session_id.hex(): {"through": mark.sequence, "ranges": mark.ranges}
                for mark in self.sessions.values()
            },
            "removed": self.removed,
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def read(cls, path: Path) -> JournalPosition:
        """Parse the file.

        Raises:
            StateFileError: damaged, or of an unknown version.
        """
        document = read_state_file(path)
        try:
            sessions = [
                SessionMark(
                    bytes.fromhex(session_id),
                    settled["through"],
                    tuple((first, last) for first, last in settled["ranges"]),
                )
                for session_id, settled in document["sessions"].items()
            ]
            return cls(
                document["incarnation"],
                document["next_batch"],
                bytes.fromhex(document["previous"]),
                {mark.session_id: mark for mark in sessions},
                document["removed"],
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise StateFileError(f"{path.name} is damaged") from None

    def remember(self, marks: Iterable[SessionMark]) -> None:
        """Take newer marks. The least recently changed sessions are forgotten when there are too many."""
        for mark in marks:
            self.sessions.pop(mark.session_id, None)
            self.sessions[mark.session_id] = mark
        while len(self.sessions) > MAX_SESSIONS:
            self.sessions.pop(next(iter(self.sessions)))
