"""Regular expressions as people write them -> expression trees.

The part that ECMA 262 (JSON schema) and Python agree on: alternation, groups, classes, greedy and
lazy quantifiers, `^` and `$`. Where the two disagree only what both accept is produced: `\\d`,
`\\w` and `\\s` are ASCII, `.` is no kind of line end, `$` is the very end. Look-around, back
references, `\\b`, inline flags and Unicode properties are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dgemma_backend.constraint.expression import (
    LAST_CHARACTER,
    NOTHING,
    Choice,
    Edge,
    Expression,
    Repeat,
    Search,
    Sequence,
    Span,
    without_spans,
)
from dgemma_backend.errors import ConstraintError

Encode = Callable[[Iterable[Span]], Expression]
"""Makes an expression of one character out of spans of code points."""

MAX_GROUPS_INSIDE = 64
MAX_REPEAT = 20_000

_ALL: Span = (0, LAST_CHARACTER)
_DIGIT = [(0x30, 0x39)]
_WORD = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE = [(0x09, 0x0D), (0x20, 0x20)]
_NOT_ASCII = (0x80, LAST_CHARACTER)
# what Python or ECMA 262 count in beside the ASCII part; \d begins to differ at U+0660
_MAYBE = {
    "d": [(0x660, LAST_CHARACTER)],
    "w": [_NOT_ASCII],
    "s": [(0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
          (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000),
          (0xFEFF, 0xFEFF)],
}  # fmt: skip
_SURELY = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_LINE_ENDS = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_ESCAPES = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0x00}


def full_match(pattern: str, encode: Encode) -> Expression:
    """The texts that `pattern` matches from begin to end."""
    body = _Parser(pattern, encode).parsed()
    return Search(body, NOTHING) if _has_edge(body) else body


def search(pattern: str, encode: Encode, around: Expression) -> Expression:
    """The texts in which `pattern` is found somewhere; `around` is any character of a text."""
    return Search(_Parser(pattern, encode).parsed(), around)


def _has_edge(expression: Expression) -> bool:
    match expression:
        case Edge():
            return True
        case Sequence(parts) | Choice(parts):
            return any(map(_has_edge, parts))
        case Repeat(body):
            return _has_edge(body)
        case _:
            return False


class _Parser:
    """A recursive descent; raises ConstraintError for what it does not know."""

    def __init__(self, pattern: str, encode: Encode) -> None:
        self.pattern = pattern
        self.encode = encode
        self.place = 0
        self.inside = 0

    def parsed(self) -> Expression:
        found = self.alternation()
        if self.place < len(self.pattern):
            raise self.refused("a ')' without its '('")
        return found

    def refused(self, what: str) -> ConstraintError:
        return ConstraintError(
            f"the pattern {self.pattern[:80]!r} cannot be used: {what} (at character {self.place})"
        )

    def peek(self) -> str:
        return self.pattern[self.place] if self.place < len(self.pattern) else ""

    def take(self) -> str:
        letter = self.peek()
        if not letter:
            raise self.refused("it ends too early")
        self.place += 1
        return letter

    def taken(self, text: str) -> bool:
        if self.pattern.startswith(text, self.place):
            self.place += len(text)
            return True
        return False

    def alternation(self) -> Expression:
        options = [self.concatenation()]
        while self.taken("|"):
            options.append(self.concatenation())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def concatenation(self) -> Expression:
        parts: list[Expression] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.quantified(self.atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def quantified(self, atom: Expression) -> Expression:
        bounds = self.bounds()
        if bounds is None:
            return atom
        if _has_edge(atom):
            raise self.refused("a repeated '^' or '$'")
        least, most = bounds
        if most is not None and most < least:
            raise self.refused(f"the repeat {{{least},{most}}} runs backwards")
        if max(least, most or 0) > MAX_REPEAT:
            raise self.refused(f"more than {MAX_REPEAT} repeats")
        if self.peek() == "+":
            raise self.refused("a possessive quantifier")
        self.taken("?")  # lazy: the same texts
        if self.peek() in ("*", "+", "?") or self._counted() is not None:
            raise self.refused("a quantifier behind a quantifier")
        return Repeat(atom, least, most)

    def bounds(self) -> tuple[int, int | None] | None:
        """How often what came before may come, or None where nothing is said."""
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self.peek() in simple:
            return simple[self.take()]
        counted = self._counted()
        if counted is None:
            return None
        self.place, least, most = counted
        return least, most

    def _counted(self) -> tuple[int, int, int | None] | None:
        """The end and the bounds of `{m}`, `{m,}`, `{,n}`, `{m,n}`; other braces are letters."""
        end = self.pattern.find("}", self.place)
        if self.peek() != "{" or end < 0 or end - self.place > 12:
            return None
        low, comma, high = self.pattern[self.place + 1 : end].partition(",")
        if not (low or high) or any(n and not (n.isascii() and n.isdigit()) for n in (low, high)):
            return None
        least = int(low or 0)
        return end + 1, least, (int(high) if high else None) if comma else least

    def atom(self) -> Expression:
        letter = self.take()
        if letter == "(":
            return self.group()
        if letter == "[":
            return self.encode(self.letters())
        if letter == ".":
            return self.encode(without_spans([_ALL], _LINE_ENDS))
        if letter in "^$":
            return Edge(letter == "$")
        if letter == "\\":
            return self.escape()
        if letter in "*+?":
            raise self.refused(f"a {letter!r} with nothing to repeat")
        return self.encode([(ord(letter), ord(letter))])

    def group(self) -> Expression:
        self.inside += 1
        if self.inside > MAX_GROUPS_INSIDE:
            raise self.refused(f"more than {MAX_GROUPS_INSIDE} groups inside one another")
        if self.taken("?"):
            if self.taken("P<") or (self.peek() == "<" and self.pattern[self.place + 1 :][:1]
                                    not in ("=", "!") and self.taken("<")):  # fmt: skip
                name_end = self.pattern.find(">", self.place)
                if name_end < 0 or not self.pattern[self.place : name_end].isidentifier():
                    raise self.refused("a group name that is none")
                self.place = name_end + 1
            elif not self.taken(":"):
                raise self.refused("look-around, flags and other '(?' groups are not regular here")
        found = self.alternation()
        if not self.taken(")"):
            raise self.refused("a '(' without its ')'")
        self.inside -= 1
        return found

    def escape(self) -> Expression:
        letter = self.peek()
        if letter in ("A", "Z"):
            self.place += 1
            return Edge(letter == "Z")
        return self.encode(self.escaped(negated=False))

    def escaped(self, *, negated: bool) -> list[Span]:
        """The characters of an escape; in a negated class the ones that may be meant."""
        letter = self.take()
        if letter.lower() in _SURELY:
            surely = _SURELY[letter.lower()]
            maybe = surely + _MAYBE[letter.lower()]
            if letter.islower():
                return maybe if negated else surely
            return without_spans([_ALL], surely if negated else maybe)
        if letter in _ESCAPES and not (letter == "0" and self.peek().isdigit()):
            code = _ESCAPES[letter]
        elif letter in "xu":
            code = self.hexadecimal(2 if letter == "x" else 4)
        elif letter.isascii() and letter.isalnum():
            raise self.refused(f"the escape \\{letter}")
        else:
            code = ord(letter)
        return [(code, code)]

    def hexadecimal(self, digits: int) -> int:
        text = self.pattern[self.place : self.place + digits]
        if len(text) < digits or any(each not in "0123456789abcdefABCDEF" for each in text):
            raise self.refused(f"an escape that needs {digits} hexadecimal digits")
        self.place += digits
        return int(text, 16)

    def letters(self) -> list[Span]:
        """The characters of a class, behind its '['."""
        negated = self.taken("^")
        spans: list[Span] = []
        first = True
        while first or self.peek() != "]":
            if first and self.peek() == "]":
                raise self.refused("an empty class, or one that begins with ']': write \\]")
            first = False
            if self.pattern[self.place : self.place + 2] in ("[:", "[=", "[.", "&&", "--", "||"):
                raise self.refused("a class inside a class")
            low = self.class_member(negated)
            ahead = self.pattern[self.place : self.place + 2]
            if ahead[:1] == "-" and ahead[1:] not in ("]", ""):
                self.place += 1
                high = self.class_member(negated)
                if not (len(low) == len(high) == 1 and low[0][0] == low[0][1] <= high[0][0]
                        and high[0][0] == high[0][1]):  # fmt: skip
                    raise self.refused("a span of characters that runs backwards or has no ends")
                low = [(low[0][0], high[0][1])]
            spans += low
        self.place += 1
        return without_spans([_ALL], spans) if negated else without_spans(spans, [])

    def class_member(self, negated: bool) -> list[Span]:
        letter = self.take()
        if letter == "\\":
            if self.peek() == "b":
                self.place += 1
                return [(0x08, 0x08)]
            return self.escaped(negated=negated)
        return [(ord(letter), ord(letter))]
