"""The claim on a state directory, and whether anything was ever recorded in it.

Keys, the journal's position and the list of logs are made in a directory that records nothing yet, and never again:
made anew beside evidence, they would disown it.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from services.common.durable_files import make_directory, remove_scratch_files

POSITION = "wal.json"
"""Written last by a first start: with it, the directory is in use."""
_FOLDERS = ("wal", "keyring", "logs", "keys")


class StateInUseError(Exception):
    """Another audit service holds the state directory: there are never two writers of one log."""


class StateIncompleteError(Exception):
    """A file that every directory in use has is missing; restore it from the volume's copy."""


def is_unused(root: Path) -> bool:
    """Whether no log, journal or keyring was ever begun in a directory."""
    begun = (
        *(root / "wal").glob("*"),
        *(root / "keyring").glob("*"),
        *(entry for entry in (root / "logs").glob("*") if entry.is_dir()),
    )
    return not begun and not (root / POSITION).exists()


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """A directory that this process alone may write, for as long as it holds it."""

    root: Path
    lock: int

    @classmethod
    def claim(cls, root: Path) -> StateDirectory:
        """Take a directory, making it where needed; nothing else of it may be read or made before.

        Raises:
            StateInUseError: another process holds it.
        """
        make_directory(root)
        lock = os.open(root / "LOCK", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StateInUseError(f"another audit service runs on {root}") from None
        for name in _FOLDERS:
            make_directory(root / name)
        for folder in (root, *(root / name for name in _FOLDERS)):
            remove_scratch_files(folder)
        return cls(root, lock)

    def release(self) -> None:
        """Let another process have it."""
        os.close(self.lock)
