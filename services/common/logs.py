"""Log lines: one a line, key=value, to standard error.

An exception's text is never written, only its type and place: it may hold what a tenant wrote.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from services.common.rpc.interceptors import where

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class LineFormatter(logging.Formatter):
    """Formats `time level logger message`, and for an exception its type and place."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = f"{moment} {record.levelname} {record.name} {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            cause = record.exc_info[1]
            line += f" [{type(cause).__name__} at {where(cause)}]"
        return line.replace("\n", "\\n")


def configure_logging(level: LogLevel) -> None:
    """Send every logger's lines to standard error."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
