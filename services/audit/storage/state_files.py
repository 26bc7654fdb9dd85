"""Reads the service's own JSON files. Each names the version of its format, and no other version is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STATE_VERSION = 1


class StateFileError(ValueError):
    """A state file is damaged, or of a version that this service does not know. The text names the file."""


def read_state_file(path: Path) -> dict[str, Any]:
    """Parse a state file.

    Raises:
        StateFileError: not a JSON object, or of another version.
    """
    try:
        document = json.loads(path.read_bytes())
        version = document["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StateFileError(f"{path.name} is damaged") from None
    if type(version) is not int or version != STATE_VERSION:
        raise StateFileError(f"{path.name} has version {version!r}, which this service does not know")
    return dict(document)
