"""Reads what a person or a program gives a command: at most so many bytes, and text or a clear refusal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from services.cli.visible_text import one_line
from services.common.command_errors import UsageError

STDIN = Path("-")


def read_bytes(source: Path, what: str, max_bytes: int) -> bytes:
    """The bytes of a file, or of stdin for `-`; reads no further than the limit, so that a device ends too.

    Args:
        source: where from.
        what: what it should hold, for messages.
        max_bytes: how much it may hold.

    Raises:
        UsageError: not readable, or too large.
    """
    name = "stdin" if source == STDIN else source
    try:
        if source == STDIN:
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with expanded(source).open("rb") as file:
                data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {what} from {name}: {error.strerror}.") from None
    if len(data) > max_bytes:
        raise UsageError(f"{name} has more than the {max_bytes} bytes {what} may have.")
    return data


def as_text(data: bytes, where: str) -> str:
    """The text of UTF-8 bytes.

    Raises:
        UsageError: they are not UTF-8; says where the first wrong byte is.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not UTF-8 text: byte {error.start + 1} is 0x{data[error.start]:02x}.",
            "Convert it, for example with `iconv -t UTF-8`.",
        ) from None


def require_text(text: str, where: str) -> str:
    """The text, which Python may have made of bytes that are no text (PEP 383).

    Raises:
        UsageError: it was.
    """
    if not _has_surrogate(text):
        return text
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{where} is not text: it holds half of a surrogate pair.") from None
    return as_text(data, where)


def readable_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line as text.

    Raises:
        UsageError: names the first that is not UTF-8.
    """
    return [
        require_text(argument, f"argument {number}, {one_line(argument)},")
        for number, argument in enumerate(arguments, start=1)
    ]


def expanded(path: Path) -> Path:
    """The path with `~` and `~user` replaced.

    Raises:
        UsageError: there is no such home directory.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path} names a home directory that does not exist.") from None


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
