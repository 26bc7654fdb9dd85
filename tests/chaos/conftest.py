"""The long runs: only with `--run-chaos`, each telling how far it is, and a table of figures at the end.

pytest tests/chaos --run-chaos
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import pytest

_MARKER = "chaos: a long run under faults; with --run-chaos only"
_FIGURES = pytest.StashKey[list[tuple[str, str, str]]]()


def pytest_addoption(parser):
    parser.addoption("--run-chaos", action="store_true", help="run the long tests under faults")


def pytest_configure(config):
    config.addinivalue_line("markers", _MARKER)
    config.stash[_FIGURES] = []


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run-chaos", default=False):
        return
    long = [item for item in items if item.get_closest_marker("chaos")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@dataclass
class Telling:
    """Where a long run tells how far it is, and what it found."""

    config: pytest.Config
    test: str
    _begun_at: float = field(default_factory=time.monotonic)

    def progress(self, text: str) -> None:
        """A line, at once."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n  [{time.monotonic() - self._begun_at:6.1f} s] {text}", end="", flush=True)

    def figure(self, name: str, value: object, bar: str = "") -> None:
        """A row of the table at the end; a bar is what the figure is held against."""
        self.config.stash[_FIGURES].append((f"{self.test}: {name}", str(value), bar))


@pytest.fixture
def tell(request):
    return Telling(request.config, request.node.name.removeprefix("test_"))


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_FIGURES]
    if not rows:
        return
    terminalreporter.section("figures")
    width, value_width = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    for name, value, bar in rows:
        terminalreporter.write_line(f"{name:<{width}}  {value:>{value_width}}  {bar}")
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    terminalreporter.write_line(f"processors: {os.cpu_count()}; load over 1, 5 and 15 minutes: {load}")
