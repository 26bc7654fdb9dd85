"""Keep the README's promise where a newcomer meets it: clone to an empty folder, empty caches, `make up` twice.

Each time the mesh is waited for, shown, and stopped as a terminal stops it; then everything it started must be gone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_FIRST_SECONDS, _AGAIN_SECONDS, _STOP_SECONDS = 180.0, 25.0, 5.0
_GIVE_UP_SECONDS = 600.0
_READY = "Ctrl-C stops everything."
_SHM = Path("/dev/shm")  # noqa: S108 - where Triton's python backend puts its regions


@dataclass(frozen=True, slots=True)
class Run:
    """One `make up`, from its start to its end."""

    up_seconds: float
    stop_seconds: float
    status: int
    left: list[str]
    """Leftovers of the run: processes, sockets, shared memory."""


def main() -> None:
    """Clone, run twice, say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stop-with", choices=["INT", "TERM"], default="INT")
    parser.add_argument(
        "--with-tests", action="store_true", help="run `make lint` and `make test` there, too"
    )
    arguments = parser.parse_args()
    repository = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="fresh-") as name:
        folder = Path(name)
        clone = folder / "tenantry"
        subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)
        environment = _empty_caches(folder)
        number = signal.Signals[f"SIG{arguments.stop_with}"]
        runs = [_run(clone, environment, number) for _ in range(2)]
        failed = _report(runs)
        if arguments.with_tests:
            failed |= _make(clone, environment, "lint") or _make(clone, environment, "test")
    sys.exit(1 if failed else 0)


def _empty_caches(folder: Path) -> dict[str, str]:
    """This environment with a home of its own, where nothing is cached."""
    home = folder / "home"
    home.mkdir()
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "UV_", "VIRTUAL_"))
    }
    caches = {"XDG_CACHE_HOME": home / "cache", "XDG_STATE_HOME": home / "state", "UV_CACHE_DIR": home / "uv"}
    return {**kept, "HOME": str(home), **{key: str(path) for key, path in caches.items()}, "COLUMNS": "110"}


def _run(clone: Path, environment: dict[str, str], number: signal.Signals) -> Run:
    shared_before, begun = _shared_memory(), time.monotonic()
    process = subprocess.Popen(
        ["make", "up"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(f"  [{time.monotonic() - begun:6.1f} s] {line}", end="", flush=True)
        if _READY in line:
            break
    ready = time.monotonic()
    # As a terminal does: to everything in the foreground.
    os.killpg(process.pid, number)
    process.stdout.read()
    status = process.wait(_GIVE_UP_SECONDS)
    stopped = time.monotonic()
    left = _processes_of(environment["HOME"]) + _sockets_under(Path(environment["HOME"]))
    return Run(ready - begun, stopped - ready, status, left + sorted(_shared_memory() - shared_before))


def _processes_of(home: str) -> list[str]:
    """The processes that still run with that home."""
    wanted = f"HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(f"process {entry.name}: {(entry / 'comm').read_text().strip()}")
        except OSError:
            continue  # gone meanwhile, or another user's
    return found


def _sockets_under(home: Path) -> list[str]:
    return [f"socket {path}" for path in home.rglob("*") if path.is_socket()]


def _shared_memory() -> set[str]:
    return {f"shared memory {path.name}" for path in _SHM.glob("tenantry*")}


def _report(runs: list[Run]) -> bool:
    """Print the table; returns whether a bar was not kept."""
    rows = [("", "seconds", "at most", "")]
    kept = []
    for name, run, most in zip(("first", "second"), runs, (_FIRST_SECONDS, _AGAIN_SECONDS), strict=True):
        for what, seconds, bar in (("up", run.up_seconds, most), ("stop", run.stop_seconds, _STOP_SECONDS)):
            kept.append(seconds <= bar)
            rows.append(
                (f"{name} make {what}", f"{seconds:.1f}", f"{bar:.0f}", "kept" if kept[-1] else "NOT KEPT")
            )
    print()
    for row in rows:
        print(f"{row[0]:<16}  {row[1]:>7}  {row[2]:>7}  {row[3]}".rstrip())
    for run in runs:
        for thing in run.left:
            print(f"left behind: {thing}")
    return not all(kept) or any(run.left for run in runs)


def _make(clone: Path, environment: dict[str, str], target: str) -> bool:
    begun = time.monotonic()
    status = subprocess.run(["make", target], cwd=clone, env=environment, check=False).returncode
    print(f"make {target}: status {status} after {time.monotonic() - begun:.0f} s")
    return status != 0


if __name__ == "__main__":
    main()
