"""Chat templates: render a conversation as the text that a model was trained on. A caller's text cannot forge a turn.

The turns of a model are made of control tokens, such as `<|im_start|>`. A caller's text that spells one has to stay
text. So before rendering, a marker breaks every part of the text that is a control token or could be completed to one.
The control tokens in the rendered text are then the template's own. The text is split at them, and the markers are
removed. Text without such spellings is rendered unchanged, and a template may inspect it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateError(ValueError):
    """The chat template cannot be compiled, or refuses the conversation."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as a template sees it."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation."""

    text: str
    control: bool
    """Whether it is one control token of the template; otherwise it is text, even if it spells one."""


class ChatTemplate:
    """The template of one model. It runs in a sandbox that gives template and conversation no access to the process."""

    def __init__(self, source: str, control_tokens: Sequence[str]) -> None:
        """Compile.

        Args:
            source: Jinja2, as shipped beside the tokeniser.
            control_tokens: the spelling of every added token of the tokeniser.

        Raises:
            TemplateError: not a template.
        """
        # Chat templates are written for these rules of white space.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
            needed = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError:
            raise TemplateError("the chat template does not compile") from None
        # Jinja renders unknown names as nothing, which would silently change the prompt.
        if missing := needed & {"bos_token", "eos_token", "pad_token"}:
            raise TemplateError(f"the chat template asks for {', '.join(sorted(missing))}")
        if any(len(token) == 1 for token in control_tokens):
            raise TemplateError("a control token of one character cannot be distinguished from text")
        # Tokenisers find added tokens in this order: leftmost, then longest.
        longest_first = sorted(filter(None, control_tokens), key=lambda token: (-len(token), token))
        self._tokens = longest_first
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._prefixes = {token[:size] for token in longest_first for size in range(1, len(token))}
        self._longest = max(map(len, longest_first), default=0)

    def render(self, turns: Sequence[Turn]) -> list[Segment]:
        """Render a conversation and the opening of the answer, as control tokens and the text between them.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        marker = f"\ue000{secrets.token_hex(16)}\ue001"
        messages = [{"role": turn.role, "content": self._break(turn.content, marker)} for turn in turns]
        try:
            rendered = self._template.render(messages=messages, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError):
            raise TemplateError("the model's chat template refuses this conversation") from None
        return [
            Segment(text if control else text.replace(marker, ""), control)
            for text, control in self._split(rendered)
        ]

    def _break(self, content: str, marker: str) -> str:
        """Put the marker into every control token, and into an end that could become part of one."""
        if self._pattern is None:
            return content
        broken = content
        # One pass does not find overlapping spellings, so repeat until none is left.
        while True:
            once = self._pattern.sub(lambda found: found[0][:1] + marker + found[0][1:], broken)
            if once == broken:
                break
            broken = once
        # A template may trim the text, so the end before the white space counts.
        kept = broken.rstrip()
        for size in range(1, min(self._longest, len(kept) + 1)):
            if kept[-size:] in self._prefixes:
                place = len(kept) - size + 1
                broken = broken[:place] + marker + broken[place:]
        return broken

    def _split(self, rendered: str) -> Iterator[tuple[str, bool]]:
        if self._pattern is None:
            yield rendered, False
            return
        place = 0
        for found in self._pattern.finditer(rendered):
            if found.start() > place:
                yield rendered[place : found.start()], False
            yield found[0], True
            place = found.end()
        if place < len(rendered):
            yield rendered[place:], False


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
