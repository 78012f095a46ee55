"""Two ways to write JSON data: JSON itself, and the inside of a tool call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from dgemma_backend.constraint.expression import (
    LAST_CHARACTER,
    NOTHING,
    Choice,
    Control,
    Expression,
    Intersection,
    Repeat,
    Span,
    Spans,
    characters,
    choice,
    optional,
    sequence,
    without_spans,
)

_BARE_KEY_ENDS = frozenset(',{}[]()":=')
_SHORT_ESCAPES = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
_NEVER_PLAIN = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)]


class Notation(Protocol):
    """How strings, keys and what stands between values are written."""

    comma: Expression
    any_character: Expression
    sorts_names: bool
    """Whether the members of an object come in alphabetical order, or in that of the schema."""

    def encode(self, spans: Iterable[Span]) -> Expression:
        """One character of a string, out of spans of code points."""
        ...

    def string(self, body: Expression) -> Expression:
        """A string whose characters `body` gives."""
        ...

    def text(self, text: str) -> Expression:
        """One certain string; without options where it cannot be written."""
        ...

    def key(self, name: str) -> Expression:
        """The name of a member and what separates it from the value."""
        ...

    def free_key(self, body: Expression) -> Expression:
        """The name of a member, which `body` gives, and what separates it from the value."""
        ...


class JsonNotation:
    """JSON with or without one blank behind `,` and `:`, and no other white space.

    A character is escaped only where it must be, and then in one way; control characters that have
    no short escape are written in certain texts (enum, const, names) and never in free ones.
    """

    comma: Expression = sequence(",", optional(" "))
    colon: Expression = sequence(":", optional(" "))
    sorts_names = False

    def __init__(self) -> None:
        self.any_character = self.encode([(0, LAST_CHARACTER)])

    def encode(self, spans: Iterable[Span]) -> Expression:
        """One character of a string, out of spans of code points."""
        spans = list(spans)
        plain = characters(*without_spans(spans, _NEVER_PLAIN)).alternatives
        escapes = tuple(
            ((0x5C, 0x5C), (ord(letter), ord(letter)))
            for code, letter in _SHORT_ESCAPES.items()
            if any(first <= code <= last for first, last in spans)
        )
        return Spans(plain + escapes)

    def string(self, body: Expression) -> Expression:
        """A string whose characters `body` gives."""
        return sequence('"', body, '"')

    def text(self, text: str) -> Expression:
        """One certain string."""
        written = json.dumps(text, ensure_ascii=False)
        lone = any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)
        return sequence(json.dumps(text) if lone else written)

    def key(self, name: str) -> Expression:
        """The name of a member and a colon."""
        return sequence(self.text(name), self.colon)

    def free_key(self, body: Expression) -> Expression:
        """The name of a member, which `body` gives, and a colon."""
        return sequence(self.string(body), self.colon)


class CallNotation:
    """The inside of a Gemma 4 tool call: strings between quote tokens, nothing escaped, no blanks.

    Names are bare where they can be, and sorted without regard to case, as the model learnt them.
    """

    comma: Expression = sequence(",")
    any_character: Expression = characters((0, LAST_CHARACTER))
    sorts_names = True

    def __init__(self, quote: Sequence[int]) -> None:
        self.quote = Control(tuple(quote))

    def encode(self, spans: Iterable[Span]) -> Expression:
        """One character of a string, out of spans of code points."""
        return characters(*spans)

    def string(self, body: Expression) -> Expression:
        """A string whose characters `body` gives."""
        return sequence(self.quote, body, self.quote)

    def text(self, text: str) -> Expression:
        """One certain string; lone surrogates cannot be written."""
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
            return NOTHING
        return self.string(sequence(text))

    def key(self, name: str) -> Expression:
        """The name of a member and a colon; quoted where it could not be read back bare.

        There are no empty names.
        """
        if not name:
            return NOTHING
        bare = name == name.strip() and not _BARE_KEY_ENDS & set(name)
        return sequence(sequence(name) if bare else self.text(name), ":")

    def free_key(self, body: Expression) -> Expression:
        """The name of a member, which `body` gives, and a colon; no name is empty."""
        some = Repeat(self.any_character, 1, None)
        return sequence(self.string(Intersection((body, some))), ":")


def written(value: Any, notation: Notation) -> Expression:
    """One certain JSON value; without options where it cannot be written."""
    if isinstance(value, str):
        return notation.text(value)
    if isinstance(value, dict):
        names = sorted(value, key=str.lower) if notation.sorts_names else list(value)
        members = [sequence(notation.key(name), written(value[name], notation)) for name in names]
        return sequence("{", *_separated(members, notation), "}")
    if isinstance(value, list | tuple):
        return sequence("[", *_separated([written(v, notation) for v in value], notation), "]")
    try:
        return choice(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return Choice(())


def _separated(parts: Sequence[Expression], notation: Notation) -> list[Expression]:
    found: list[Expression] = []
    for part in parts:
        found += [notation.comma, part] if found else [part]
    return found
