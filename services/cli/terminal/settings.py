"""The width of the terminal, which the environment may set. Imports nothing slow: `--help` needs it."""

from __future__ import annotations

import os
import shutil

_MIN_COLUMNS = 40


def settle_width() -> None:
    """Give help and tables at least 40 columns: narrower ones cannot be read, and Rich prints none of width 0.

    Rich reads the width from the environment and takes any number there for true.
    """
    columns = shutil.get_terminal_size().columns
    if "COLUMNS" in os.environ or columns < _MIN_COLUMNS:
        os.environ["COLUMNS"] = str(max(columns, _MIN_COLUMNS))
