"""Breaks a text that arrives in pieces between its words, at the width of a terminal."""

from __future__ import annotations

import re

from rich.cells import cell_len

_TAB_CELLS = 8
# Words, single spaces and breaks, in the order of the text.
_PARTS = re.compile(r"\n|\t| |[^\n\t ]+")


class WordWrap:
    """A word is given out once it has ended, since only then it is known whether it fits on the line.

    Characters of two cells, as Chinese has them, may be parted from each other like words. A word longer than a line
    is left to the terminal to break.

    Args:
        width: of a line, in cells.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._spaces = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """Take the next piece; returns what can be shown now."""
        shown = []
        for part in _PARTS.findall(text):
            if part == "\n":
                shown.append(self.finish() + "\n")
                self._column = 0
            elif part == "\t":
                shown.append(self.finish() + "\t")
                self._column += _TAB_CELLS - self._column % _TAB_CELLS
            elif part == " ":
                shown.append(self._given_word())
                self._spaces += 1
            else:
                shown.append(self._extended(part))
        return "".join(shown)

    def finish(self) -> str:
        """Give the rest, at the end of a line or of the text; spaces at an end are dropped."""
        shown = self._given_word()
        self._spaces = 0
        return shown

    def _extended(self, letters: str) -> str:
        shown = ""
        for letter in letters:
            is_full = cell_len(self._word) >= self._width
            if is_full or cell_len(letter) > 1 or cell_len(self._word[-1:]) > 1:
                shown += self._given_word()
                self._word = letter
            else:
                self._word += letter
        return shown

    def _given_word(self) -> str:
        if not self._word:
            return ""
        word, spaces, self._word, self._spaces = self._word, self._spaces, "", 0
        cells = cell_len(word)
        if self._column and self._column + spaces + cells > self._width:
            self._column = cells
            return f"\n{word}"
        self._column += spaces + cells
        return " " * spaces + word
