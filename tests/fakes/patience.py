"""How long a test waits: long for what has to happen, and for what is promised in seconds as the machine allows."""

from __future__ import annotations

import os
from pathlib import Path

PATIENCE_SECONDS = 60.0
"""For an event that has to come; a test that passes waits for it no longer than it takes."""


def promised(seconds: float) -> float:
    """A time the product keeps on a machine of its own, longer here by as much as others want the processors, too."""
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    return seconds * max(1.0, max(os.getloadavg()[0], running) / (os.cpu_count() or 1))
