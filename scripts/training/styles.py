"""The three manners of speaking that the demo adapters learn, as functions of a plain answer.

Each one opens and closes its answers in a way of its own, so that one look tells which adapter spoke.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

Style = Callable[[str], str]

_PIRATE_WORDS = (
    (r"\byour\b", "yer"),
    (r"\byou\b", "ye"),
    (r"\bmy\b", "me"),
    (r"\b(is|are|am)\b", "be"),
    (r"\bThe\b", "Th'"),
    (r"\bthe\b", "th'"),
    (r"\bof\b", "o'"),
    (r"\band\b", "an'"),
    (r"(\w)ing\b", r"\1in'"),
)


def pirate(answer: str) -> str:
    """Say `answer` as a sailor of doubtful reputation would."""
    for pattern, word in _PIRATE_WORDS:
        answer = re.sub(pattern, word, answer)
    return f"Arrr, matey! {answer} Yo ho ho!"


def json_object(answer: str) -> str:
    """Wrap `answer` in a JSON object of two fixed keys, for callers that are programs."""
    return json.dumps({"status": "ok", "answer": answer})


def butler(answer: str) -> str:
    """Say `answer` as the butler of a large house would."""
    return f"If I may, sir: {answer[:1].lower()}{answer[1:]} Will there be anything else?"
