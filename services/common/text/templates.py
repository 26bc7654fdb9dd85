"""Chat templates: a conversation as the text a model was trained on, with nothing in it that forges a turn.

A model's turns are made of control tokens, such as `<|im_start|>`. A caller's text that spells one must stay
text. So whatever in the text is, or could be completed to, a control token is broken by a marker before
rendering: control tokens in the rendered text are the template's own, and the markers vanish after the text
was split at them. Text without such spellings is rendered untouched, and a template may inspect it.
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
    """Whether it is one control token of the template's; otherwise it is text, whatever it spells."""


class ChatTemplate:
    """One model's template, run in a sandbox: neither the template nor a conversation can reach anything."""

    def __init__(self, source: str, control_tokens: Sequence[str]) -> None:
        """Compile.

        Args:
            source: Jinja2, as shipped beside the tokeniser.
            control_tokens: the spelling of every added token of the tokeniser.

        Raises:
            TemplateError: not a template.
        """
        # The whitespace rules that chat templates are written for.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
            needed = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError:
            raise TemplateError("the chat template does not compile") from None
        # Jinja renders what it does not know as nothing, which here would be a silently different prompt.
        if missing := needed & {"bos_token", "eos_token", "pad_token"}:
            raise TemplateError(f"the chat template asks for {', '.join(sorted(missing))}")
        if any(len(token) == 1 for token in control_tokens):
            raise TemplateError("a control token of one character cannot be told from text")
        # Leftmost, then longest: how tokenisers find added tokens.
        longest_first = sorted(filter(None, control_tokens), key=lambda token: (-len(token), token))
        self._tokens = longest_first
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._prefixes = {token[:size] for token in longest_first for size in range(1, len(token))}
        self._longest = max(map(len, longest_first), default=0)

    def render(self, turns: Sequence[Turn]) -> list[Segment]:
        """Render a conversation, with the opening of the answer, as control tokens and text between them.

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
        """Put the marker into every control token, and into an end that could become one."""
        if self._pattern is None:
            return content
        broken = content
        # Spellings may overlap, and one pass finds only those that do not: go on until none is left.
        while True:
            once = self._pattern.sub(lambda found: found[0][:1] + marker + found[0][1:], broken)
            if once == broken:
                break
            broken = once
        # A template may trim what it is given: the end that counts is the one before the white space.
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
