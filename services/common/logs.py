"""Logging to standard error, one line for each record.

The text of an exception is never written, only its type and place, since it may hold text of a tenant.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from services.common.misleading_text import escaped
from services.common.rpc.interceptors import where

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class LineFormatter(logging.Formatter):
    """Formats `time level logger message`, and the type and place of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line; characters that command a terminal or mislead a reader become escapes."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = f"{moment} {record.levelname} {record.name} {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            cause = record.exc_info[1]
            line += f" [{type(cause).__name__} at {where(cause)}]"
        return escaped(line)  # proven: log-lines-are-escaped


def configure_logging(level: LogLevel) -> None:
    """Send the lines of every logger to standard error."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
