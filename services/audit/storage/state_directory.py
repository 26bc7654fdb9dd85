"""Claims the state directory for one process, and says whether anything was ever recorded in it.

Keys, the journal's position and the list of logs are made only in a directory that records nothing yet. Made again
beside recorded entries, they would make all of them look like damage.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from services.common.durable_files import make_directory, remove_scratch_files

POSITION = "wal.json"
"""The first start writes this file last. A directory that has it is in use."""
_FOLDERS = ("wal", "keyring", "logs", "keys")


class StateInUseError(Exception):
    """Another audit service holds the state directory. A log never has two writers."""


class StateIncompleteError(Exception):
    """A file is missing that every directory in use has. Restore it from the volume's copy."""


def is_unused(root: Path) -> bool:
    """Whether a directory has no log, journal or keyring yet."""
    begun = (
        *(root / "wal").glob("*"),
        *(root / "keyring").glob("*"),
        *(entry for entry in (root / "logs").glob("*") if entry.is_dir()),
    )
    return not begun and not (root / POSITION).exists()


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """A directory that only this process may write while it holds the lock."""

    root: Path
    lock: int

    @classmethod
    def claim(cls, root: Path) -> StateDirectory:
        """Lock a directory, and make it if needed. Nothing in it may be read or made before.

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
        """Release the lock."""
        os.close(self.lock)
