"""Regular expressions over bytes and control tokens, as a tree.

The letters are symbols: 0 to 255 are bytes, `CONTROL + id` is the control token `id`. A tree says
which sequences of symbols are wanted; `machine.py` makes an automaton of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CONTROL = 256
"""The symbol of control token 0; bytes are smaller."""

Span = tuple[int, int]
"""First and last of some neighbouring symbols or characters."""


@dataclass(frozen=True)
class Literal:
    """Just these bytes."""

    data: bytes


@dataclass(frozen=True)
class Spans:
    """One of several sequences of bytes, each byte out of a span."""

    alternatives: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class Control:
    """One of these control tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Sequence:
    """One part after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """Any one of the options; without options nothing at all matches."""

    options: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """`body` from `least` to `most` times, `separator` between; None is without end."""

    body: Expression
    least: int
    most: int | None
    separator: Expression = Literal(b"")


@dataclass(frozen=True)
class Listing:
    """The parts in order with `separator` between them; those marked optional may be missing."""

    parts: tuple[tuple[Expression, bool], ...]
    separator: Expression


@dataclass(frozen=True)
class Intersection:
    """What matches every one of the parts."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Edge:
    """The begin or the end of the text, where `^` and `$` stand; only inside Search."""

    end: bool


@dataclass(frozen=True)
class Search:
    """Texts in which `body` is found somewhere; `around` is any one character."""

    body: Expression
    around: Expression


@dataclass(frozen=True)
class Machine:
    """A finite automaton written out: `moves` are (from, first byte, last byte, to).

    State 0 is the first.
    """

    moves: tuple[tuple[int, int, int, int], ...]
    accepting: frozenset[int]


Expression = (
    Literal | Spans | Control | Sequence | Choice | Repeat | Listing | Intersection | Edge
    | Search | Machine
)  # fmt: skip

EMPTY = Literal(b"")
NOTHING = Choice(())


def sequence(*parts: Expression | str) -> Expression:
    """One part after another; a string stands for its UTF-8 bytes."""
    return Sequence(tuple(as_expression(part) for part in parts))


def choice(*options: Expression | str) -> Expression:
    """Any one of the options; a string stands for its UTF-8 bytes."""
    return Choice(tuple(as_expression(option) for option in options))


def optional(body: Expression | str) -> Expression:
    """`body` or nothing."""
    return Repeat(as_expression(body), 0, 1)


def as_expression(part: Expression | str) -> Expression:
    """The expression itself, or that of a string's UTF-8 bytes."""
    return Literal(part.encode("utf-8")) if isinstance(part, str) else part


LAST_CHARACTER = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST_CHARACTER))


def characters(*spans: Span) -> Spans:
    """One character out of spans of code points, in UTF-8; surrogates are no characters.

    Overlong and impossible encodings are left out: RFC 3629, section 4.
    """
    found: list[tuple[Span, ...]] = []
    for first, last in without_spans(spans, [_SURROGATES]):
        for low, high in _LENGTHS:
            if max(first, low) <= min(last, high):
                found.extend(_utf8_spans(chr(max(first, low)), chr(min(last, high))))
    return Spans(tuple(found))


def _utf8_spans(first: str, last: str) -> Iterable[tuple[Span, ...]]:
    """Byte spans of the characters from `first` to `last`, both of one encoded length."""
    return _byte_spans(tuple(first.encode()), tuple(last.encode()))


def _byte_spans(low: tuple[int, ...], high: tuple[int, ...]) -> list[tuple[Span, ...]]:
    """Every tail from `low` to `high` where the bytes after the first run from 80 to BF."""
    if len(low) == 1:
        return [((low[0], high[0]),)]
    if low[0] == high[0]:
        return [((low[0], low[0]), *rest) for rest in _byte_spans(low[1:], high[1:])]
    found: list[tuple[Span, ...]] = []
    floor, ceiling = (0x80,) * (len(low) - 1), (0xBF,) * (len(low) - 1)
    first, last = low[0], high[0]
    if low[1:] != floor:
        found += [((first, first), *rest) for rest in _byte_spans(low[1:], ceiling)]
        first += 1
    if high[1:] != ceiling:
        last -= 1
    if first <= last:
        found.append(((first, last), *(((0x80, 0xBF),) * len(floor))))
    if high[1:] != ceiling:
        found += [((high[0], high[0]), *rest) for rest in _byte_spans(floor, high[1:])]
    return found


def merged_spans(spans: Iterable[Span]) -> list[Span]:
    """The same characters in ascending spans that neither touch nor overlap."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def without_spans(spans: Iterable[Span], removed: Iterable[Span]) -> list[Span]:
    """The characters of `spans` that are in none of `removed`."""
    found: list[Span] = []
    gaps = merged_spans(removed)
    for first, last in merged_spans(spans):
        for low, high in gaps:
            if low > last:
                break
            if high < first:
                continue
            if first < low:
                found.append((first, low - 1))
            first = high + 1
        if first <= last:
            found.append((first, last))
    return found


ANY_CHARACTER = characters((0, LAST_CHARACTER))
ANY_TEXT = Repeat(ANY_CHARACTER, 0, None)
"""Any text without a control token, in valid UTF-8."""
