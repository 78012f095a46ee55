"""The compiled language is the language that was asked for, compared text by text."""

import itertools
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_backend.constraint import ConstraintCompiler
from dgemma_backend.constraint.expression import (
    LAST_CHARACTER,
    NOTHING,
    Choice,
    Expression,
    Intersection,
    Listing,
    Literal,
    Repeat,
    Sequence,
    Span,
    characters,
    merged_spans,
    without_spans,
)
from dgemma_backend.constraint.limits import Limits
from dgemma_backend.constraint.machine import determinise
from dgemma_backend.constraint.minimise import SymbolTable, minimised
from dgemma_backend.constraint.notation import JsonNotation
from dgemma_backend.constraint.numeral import Bound, bounded_number
from dgemma_backend.constraint.regex import full_match, search

Accepts = Callable[..., bool]
TEXTS = ["".join(letters) for size in range(6) for letters in itertools.product("ab", repeat=size)]


def table_of(expression: Expression) -> SymbolTable:
    budget = Limits(seconds=30).start()
    return minimised(determinise(expression, budget), budget)


def takes(table: SymbolTable, data: bytes) -> bool:
    state = 0 if len(table.table) else -1
    for byte in data:
        column = table.byte_column[byte]
        if state < 0 or column < 0:
            return False
        state = table.table[state, column]
    return state >= 0 and bool(table.accepting[state])


def patterns(letters: str) -> st.SearchStrategy[str]:
    """Regular expressions that Python reads the same way."""
    atoms = st.sampled_from([*letters, ".", f"[{letters}]", f"[^{letters[0]}]", "()"])

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        quantifier = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "{,2}", "*?"])
        return st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
            st.tuples(inner, quantifier).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        )

    return st.recursive(atoms, larger, max_leaves=7)


@given(pattern=patterns("ab"))
@settings(max_examples=150)
def test_a_pattern_matches_what_python_fully_matches(pattern: str) -> None:
    table = table_of(full_match(pattern, _utf8))
    for text in TEXTS:
        assert takes(table, text.encode()) == bool(re.fullmatch(pattern, text)), text


@given(
    pattern=st.tuples(
        st.sampled_from(["", "^"]), patterns("ab"), st.sampled_from(["", "$", "|^b$", "(^|a)b"])
    ).map("".join)
)
@settings(max_examples=150)
def test_a_searched_pattern_is_found_where_python_finds_it(pattern: str) -> None:
    around = characters((0, LAST_CHARACTER))
    table = table_of(search(pattern, _utf8, around))
    for text in TEXTS:
        assert takes(table, text.encode()) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize(
    "pattern",
    ["^", "$", "^$", "$^", "a$b", "(a$|b)a", "a(^|b)", "^a|b$", "($|a)b", "^(^a|b)", "(a|$)$",
     "(^|$)a", "(a|^)($|b)", "^a*$", "b^|$a|ab"],
)  # fmt: skip
def test_the_edges_of_a_text_may_stand_anywhere(pattern: str) -> None:
    anywhere = table_of(search(pattern, _utf8, characters((0, LAST_CHARACTER))))
    wholly = table_of(full_match(pattern, _utf8))
    for text in TEXTS:
        assert takes(anywhere, text.encode()) == bool(re.search(pattern, text)), text
        assert takes(wholly, text.encode()) == bool(re.fullmatch(pattern, text)), text


def _utf8(spans: Iterable[Span]) -> Expression:
    return characters(*spans)


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        (r"\d+", ["0", "42"], ["", "a", "٣"]),
        (r"\D", ["a", "é"], ["5", "٣"]),
        (r"\w\s\S", ["a b", "_\t-"], ["é b", "a\u00a0b", "a \u00a0"]),
        (r"[^\d]", ["a", "Ω"], ["1", "٣"]),
        (r"[\w.-]+", ["a.b-c_9"], ["a b", ""]),
        (r"\x41\u00e9\n\/", ["Aé\n/"], ["Aé\n"]),
        (r"^a$", ["a"], ["a\n", "ba"]),
        (r"(?P<year>\d{4})(?<rest>-x)", ["2024-x"], ["2024"]),
        ("[a-c-]{2}", ["a-", "bc"], ["d-"]),
        ("a{,2}b{x}", ["aab{x}", "b{x}"], ["aaab{x}"]),
        ("a.c", ["abc", "a\u2029c"[:1] + "éc"], ["a\nc", "a\u2028c"]),
        ("日|本", ["日", "本"], ["日本"]),
        (r"\A(a|b)\Z", ["a"], [""]),
    ],
)
def test_patterns_as_people_write_them(
    tiny: ConstraintCompiler, accepts: Accepts, pattern: str, inside: list[str], outside: list[str]
) -> None:
    constraint = tiny.regex(pattern)
    assert [text for text in inside if not accepts(constraint, text)] == []
    assert [text for text in outside if accepts(constraint, text)] == []


LEAVES = st.sampled_from([b"", b"a", b"b", b"ab", b"ba"]).map(Literal)


def expressions() -> st.SearchStrategy[Expression]:
    def larger(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        several = st.lists(inner, min_size=1, max_size=3).map(tuple)
        parts = st.lists(st.tuples(inner, st.booleans()), max_size=3).map(tuple)
        return st.one_of(
            several.map(Sequence),
            several.map(Choice),
            several.map(Intersection),
            st.builds(Repeat, inner, st.integers(0, 1), st.sampled_from([1, 2, None])),
            st.builds(Repeat, inner, st.integers(0, 2), st.sampled_from([2, 3, None]), inner),
            st.builds(Listing, parts, inner),
        )

    return st.recursive(LEAVES, larger, max_leaves=6)


def language(expression: Expression, size: int = 5) -> set[bytes]:
    """All texts up to a length, by the meaning of each kind of tree."""

    def joined(one: set[bytes], other: set[bytes]) -> set[bytes]:
        return {a + b for a in one for b in other if len(a + b) <= size}

    match expression:
        case Literal(data):
            return {data}
        case Sequence(parts):
            found = {b""}
            for part in parts:
                found = joined(found, language(part, size))
            return found
        case Choice(options):
            return set().union(*(language(option, size) for option in options))
        case Intersection(parts):
            return set.intersection(*(language(part, size) for part in parts))
        case Repeat(body, least, most, separator):
            step, found, total = language(body, size), {b""}, set[bytes]()
            for count in range((2 * size + 4 if most is None else most) + 1):
                total |= found if count >= least else set()
                between = language(separator, size) if count else {b""}
                found = joined(joined(found, between), step)
            return total
        case Listing(parts, separator):
            found = set()
            for kept in itertools.product(*([True, False] if o else [True] for _, o in parts)):
                chosen = [part for (part, _), here in zip(parts, kept, strict=True) if here]
                row: list[Expression] = []
                for part in chosen:
                    row += [separator, part] if row else [part]
                found |= language(Sequence(tuple(row)), size)
            return found
    raise AssertionError(expression)


@given(expression=expressions())
@settings(max_examples=200)
def test_every_kind_of_tree_means_what_it_says(expression: Expression) -> None:
    table, wanted = table_of(expression), language(expression)
    texts = [text.encode() for text in TEXTS]
    assert {text for text in texts if takes(table, text)} == wanted


@given(expression=expressions())
@settings(max_examples=100)
def test_no_two_states_of_a_minimal_table_accept_the_same(expression: Expression) -> None:
    table = table_of(expression)
    following = [[*row, -1] for row in table.table.tolist()]
    number = [int(each) for each in table.accepting]
    for _ in following:  # told apart by one more letter in every round
        signs = [(mine, *(number[s] if s >= 0 else -1 for s in row))
                 for mine, row in zip(number, following, strict=True)]  # fmt: skip
        number = [sorted(set(signs)).index(sign) for sign in signs]
    assert len(set(number)) == len(following)


def test_no_option_is_no_text() -> None:
    assert len(table_of(NOTHING).table) == 0


@pytest.mark.parametrize(
    "spans",
    [
        [(0, LAST_CHARACTER)],
        [(0x7F, 0x80)],
        [(0x7FF, 0x800)],
        [(0xFFFF, 0x10000)],
        [(0xE000, 0xFFFD)],
        [(0x41, 0x41), (0x3B1, 0x3C9), (0x1F600, 0x1F64F)],
        [(0xD7FF, 0xE000)],
        [(0x10FFFF, 0x10FFFF)],
    ],
)
def test_characters_are_their_utf8_and_nothing_else(spans: list[tuple[int, int]]) -> None:
    table = table_of(characters(*spans))
    inside = {code for first, last in spans for code in range(first, last + 1)}
    codes = {0, 0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF}
    codes |= {max(0, end + by) for span in spans for end in span for by in (-1, 0, 1)}
    for code in codes:
        if code <= LAST_CHARACTER and not 0xD800 <= code <= 0xDFFF:
            assert takes(table, chr(code).encode()) == (code in inside), hex(code)
    for wrong in (b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80",
                  b"\xf0\x80\x80\x80", b"\xff", b"\xe2\x82"):  # fmt: skip
        assert not takes(table, wrong)


@given(
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple)),
    removed=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple)),
)
def test_spans_are_joined_and_taken_away_as_sets_are(spans: list[Any], removed: list[Any]) -> None:
    def members(of: list[Any]) -> set[int]:
        return {code for first, last in of for code in range(first, last + 1)}

    assert members(merged_spans(spans)) == members(spans)
    assert members(without_spans(spans, removed)) == members(spans) - members(removed)
    rest = without_spans(spans, removed)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(rest))


BOUNDS = st.none() | st.builds(
    Bound,
    st.integers(-1300, 1300).map(lambda n: Decimal(n) / 100) | st.integers(-120, 120).map(Decimal),
    st.booleans(),
)
NUMERALS = [
    f"{sign}{whole}{fraction}"
    for sign in ("", "-")
    for whole in ("0", "1", "7", "9", "10", "12", "13", "99", "100", "119", "120", "00", "05")
    for fraction in ("", ".0", ".5", ".00", ".09", ".1", ".99", ".123", ".")
]


@given(low=BOUNDS, high=BOUNDS, whole=st.booleans(), multiple=st.sampled_from([1, 1, 2, 3, 7]))
@settings(max_examples=80)
def test_numbers_keep_their_bounds(
    low: Bound | None, high: Bound | None, whole: bool, multiple: int
) -> None:
    multiple = multiple if whole else 1
    table = table_of(bounded_number(low, high, whole=whole, multiple=multiple))
    spelling = r"(0|-?[1-9]\d*)" if whole else r"-?(0|[1-9]\d*)(\.\d+)?"
    for text in NUMERALS:
        wanted = bool(re.fullmatch(spelling, text))
        if wanted:
            value = Decimal(text)
            negative_zero = text.startswith("-") and value == 0
            wanted = not negative_zero and value % multiple == 0 if whole else not negative_zero
            wanted = wanted and _within(value, low, high)
        assert takes(table, text.encode()) == wanted, text


def _within(value: Decimal, low: Bound | None, high: Bound | None) -> bool:
    above = low is None or value > low.value or (low.inclusive and value == low.value)
    below = high is None or value < high.value or (high.inclusive and value == high.value)
    return above and below


def test_json_strings_escape_only_what_must_be_escaped() -> None:
    notation = JsonNotation()
    table = table_of(notation.string(Repeat(notation.any_character, 0, None)))
    for inside in ("", "a", 'say \\"x\\"', "\\\\", "\\n\\t\\r\\b\\f", "é日\U0001f600", "/"):
        assert takes(table, f'"{inside}"'.encode()), inside
    for outside in ('a"', "\\", "\n", "\x00", "\x1f", "\x7f", "\\u0041", "\\/", "\\x"):
        assert not takes(table, f'"{outside}"'.encode()), outside
