"""Texts with holes: what stands fixed, what may be written, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dgemma_backend.constraint.template import Hole
from dgemma_backend.errors import SettingError
from dgemma_backend.messages import Reply

TemplatePart = str | Hole


@dataclass(frozen=True)
class Infill:
    """A template with its holes filled. `text` is the whole, `holes` what was written in each.

    Where a fixed text occurs in what was written too, a hole ends at its first occurrence.
    """

    text: str
    holes: tuple[str, ...]
    reply: Reply


def checked_template(parts: Sequence[TemplatePart]) -> tuple[TemplatePart, ...]:
    """Raises SettingError for what is no template, or has nothing to fill."""
    if isinstance(parts, str) or not all(isinstance(part, str | Hole) for part in parts):
        raise SettingError(
            f"a template is a list of strings and Hole objects, got {parts!r:.80}. Write "
            "['Dear ', Hole(max_tokens=8), ',']."
        )
    if not any(isinstance(part, Hole) for part in parts):
        raise SettingError("a template without a Hole leaves nothing to write")
    return tuple(part for part in parts if part)


def filled(parts: Sequence[TemplatePart], reply: Reply) -> Infill:
    """The template's text as the reply has it. Raises SettingError if it is not of that form."""
    pattern = "".join(re.escape(part) if isinstance(part, str) else _of(part) for part in parts)
    found = re.fullmatch(pattern, reply.text, re.DOTALL)
    if found is None:
        raise SettingError(f"the answer {reply.text!r:.120} does not have the template's form")
    return Infill(reply.text, found.groups(), reply)


def _of(hole: Hole) -> str:
    """A group for what may stand in a hole; a pattern with groups of its own counts as any text."""
    if hole.choices is not None:
        return f"({'|'.join(map(re.escape, hole.choices))})"
    if hole.regex is not None and re.compile(hole.regex).groups == 0:
        return f"({hole.regex})"
    return "(.*?)"


def edit_template(text: str, span: tuple[int, int], hole: Hole) -> tuple[TemplatePart, ...]:
    """`text` with its characters from `span[0]` up to `span[1]` as a hole.

    Raises SettingError for a span outside the text.
    """
    whole = isinstance(span, tuple | list) and len(span) == 2
    if not isinstance(text, str) or not whole or not all(isinstance(at, int) for at in span):
        raise SettingError(
            f"edit takes a text and a span of two places in it, got {text!r:.40} and {span!r:.40}"
        )
    begin, end = span
    if not 0 <= begin <= end <= len(text):
        raise SettingError(f"span={span!r} is not within a text of {len(text)} characters")
    return checked_template([text[:begin], hole, text[end:]])
