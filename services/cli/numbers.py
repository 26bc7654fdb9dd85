"""Numbers of options that become fields of fixed width."""

from __future__ import annotations

from collections.abc import Callable

import typer

INT32_MAX, INT64_MAX, UINT64_MAX = 2**31 - 1, 2**63 - 1, 2**64 - 1


def whole_number(most: int, least: int = 0) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`; a typer range would print its bounds in every help text."""

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        # The length bounds the work: Python refuses to convert very long numbers.
        if digits.isascii() and digits.isdigit() and len(digits) <= len(str(most)):
            number = int(text)
            if least <= number <= most:
                return number
        raise typer.BadParameter(f"{text} is not a whole number from {least} to {most}")

    return parse
