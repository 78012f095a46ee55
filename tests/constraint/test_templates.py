"""Texts with holes, against the same words spelt out."""

import itertools
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_backend.constraint import ConstraintCompiler, FixedTokens, Hole, Markers, Vocabulary
from dgemma_backend.errors import ConstraintError

PIECES: list[bytes | None] = [b"a", b"b", b"ab", b"\xc3", b"\xa9", None, None]
COMPILER = ConstraintCompiler(
    Vocabulary(PIECES), Markers(5, 5, 5, 5, 5, ends=(5,), after_call=(5,), padding=(6,))
)
PART = st.one_of(
    st.sampled_from(["a", "b", "ab", "é", ""]),
    st.lists(st.integers(0, 2), max_size=2).map(lambda ids: FixedTokens(tuple(ids))),
    st.tuples(st.integers(0, 2), st.integers(1, 2)).map(
        lambda pair: Hole(max_tokens=max(pair), min_tokens=min(pair))
    ),
    st.just(Hole(max_tokens=2, regex="a*b?")),
    st.just(Hole(max_tokens=1, choices=("a", "ab"))),
)
Cut = tuple[int, ...]


def fits(part: Any, ids: Cut) -> bool:
    """Whether tokens are what one part asks for."""
    data = b"".join(PIECES[id_] or b"" for id_ in ids)
    if isinstance(part, str):
        return data == part.encode()
    if isinstance(part, FixedTokens):
        return ids == part.ids
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    if not part.min_tokens <= len(ids) <= part.max_tokens:
        return False
    if part.regex is not None:
        return bool(re.fullmatch(part.regex, text))
    return part.choices is None or text in part.choices


def matches(parts: list[Any], ids: Cut) -> bool:
    if not parts:
        return not ids
    return any(
        fits(parts[0], ids[:cut]) and matches(parts[1:], ids[cut:]) for cut in range(len(ids) + 1)
    )


@given(parts=st.lists(PART, min_size=1, max_size=4))
@settings(max_examples=40)
def test_a_template_takes_just_what_its_parts_take(parts: list[Any]) -> None:
    automaton = COMPILER.template(parts).automaton
    for size in range(4):
        for ids in itertools.product(range(5), repeat=size):
            taken = automaton.advance(automaton.start, [*ids, 5, 6]) == automaton.done
            assert taken == matches(parts, ids), ids


def test_fixed_text_comes_word_for_word_and_holes_keep_their_bounds(
    judges: Any, tiny: ConstraintCompiler
) -> None:
    choices, name = Hole(3, choices=("well", "ill")), Hole(8, regex=r"[A-Z][a-z]{1,12}")
    parts: list[Any] = ["Dear ", Hole(max_tokens=6), ",\nI am ", choices, ".\n", name, "!"]
    automaton = tiny.template(parts).automaton
    walker, draw = judges.Walker(automaton), random.Random(3)
    pattern = r"Dear (?s:.*),\nI am (well|ill)\.\n[A-Z][a-z]{1,12}!"
    for _ in range(40):
        ids = walker.walk(draw, draw.choice([20, 30, 60]))
        text = judges.spelt(ids, tiny.vocabulary)
        assert re.fullmatch(pattern, text), text


def test_a_long_fixed_text_costs_a_state_per_token(tiny: ConstraintCompiler) -> None:
    draw = random.Random(0)
    usable = [id_ for id_, piece in enumerate(tiny.vocabulary.token_bytes) if piece]
    ids = tuple(draw.choice(usable) for _ in range(500))
    automaton = tiny.template([FixedTokens(ids), Hole(max_tokens=4), FixedTokens(ids)]).automaton
    assert automaton.advance(automaton.start, [*ids, *ids, tiny.markers.ends[0]]) == automaton.done
    assert automaton.distance[automaton.start] == 1001
    assert automaton.states < 1100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "at least one token"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens <= max_tokens"),
        ({"max_tokens": 2, "min_tokens": -1}, "min_tokens=-1"),
        ({"max_tokens": 2, "regex": "a", "choices": ("a",)}, "not both"),
        ({"max_tokens": 2, "choices": ("a", "")}, "choices that are not empty"),
        ({"max_tokens": 2, "choices": ()}, "choices that are not empty"),
    ],
)
def test_a_hole_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        Hole(**arguments)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "at least one part"),
        (["x"], "nothing matches it"),
        ([Hole(2, regex="b{7}")], "a hole of 0 to 2 tokens has no room"),
        ([Hole(2, regex="x")], "a hole of 0 to 2 tokens has no room"),
        ([FixedTokens((99,))], "token 99 is not in the vocabulary"),
        ([FixedTokens((5,))], "token 5 ends an answer or pads it"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(parts: list[Any], message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        COMPILER.template(parts)
