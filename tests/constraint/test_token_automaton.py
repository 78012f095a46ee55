"""An automaton over tokens is the automaton over bytes, read in tokens."""

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.constraint import (
    ConstraintCompiler,
    Limits,
    Markers,
    TokenAutomaton,
    Vocabulary,
)
from dgemma_backend.errors import ConstraintError, SettingError

Compilers = Callable[[int], ConstraintCompiler]
Accepts = Callable[..., bool]

PIECES: list[bytes | None] = [
    b"a", b"b", b"ab", b"ba", b"aab", b"", None, b"\xc3", b"\xa9", b"\xc3\xa9", b"\xa9a", b"b\xc3",
    *[None] * 9,
]  # fmt: skip
SMALL = ConstraintCompiler(
    Vocabulary(PIECES),
    Markers(12, 13, 14, 15, 16, ends=(17, 18), after_call=(19,), padding=(20,)),
    limits=Limits(seconds=30),
)


def consistent(automaton: TokenAutomaton) -> None:
    """What every automaton promises, by its definition."""
    edges = list(zip(automaton.source, automaton.target, automaton.label, strict=True))
    assert sorted(edge[0] for edge in edges) == [edge[0] for edge in edges]
    for state in range(automaton.states):
        out = [edge for edge in edges if edge[0] == state]
        classes = [c for _, _, label in out for c in automaton.classes_of(label).tolist()]
        assert len(set(classes)) == len(classes), "two ways for one class"
        assert len({target for _, target, _ in out}) == len(out), "two edges to one state"
        nearest = min(int(automaton.distance[target]) for _, target, _ in out)
        expected = 0 if state == automaton.done else nearest + 1
        assert automaton.distance[state] == expected
    sets = [automaton.classes_of(s).tolist() for s in range(len(automaton.set_start) - 1)]
    assert all(each == sorted(each) and each for each in sets)
    assert len({tuple(each) for each in sets}) == len(sets)
    used = {each for members in sets for each in members}
    assert len(used) >= automaton.classes - 1, "more than one class in no set"
    assert automaton.class_of.min() >= 0
    assert automaton.class_of.max() < automaton.classes
    for name in ("class_of", "source", "target", "label", "set_start", "set_classes", "distance"):
        assert getattr(automaton, name).dtype == np.int32
        assert not getattr(automaton, name).flags.writeable


@pytest.mark.parametrize("number", range(0, 90, 3))
def test_automata_keep_their_promises(
    judges: Any, tiny: ConstraintCompiler, random_compiler: Compilers, number: int
) -> None:
    schemas = [*judges.samples.WRITTEN, *map(judges.samples.generated, range(20))]
    compiler = random_compiler(number % 4) if number % 2 else tiny
    automaton = compiler.schema(schemas[number % len(schemas)]).automaton
    if automaton.states < 300:
        consistent(automaton)


PATTERNS = [
    "a*",
    "(ab)*",
    "a?b{2}",
    "(a|b)+a",
    "[^a]b*",
    "é*",
    "(é|b)a?",
    "ab|ba|aab",
    "[a-z]{0,3}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_token_sequences_are_accepted_just_when_their_bytes_are(
    accepts: Accepts, tiny: ConstraintCompiler, pattern: str
) -> None:
    automaton = SMALL.regex(pattern).automaton
    consistent(automaton)
    by_bytes = tiny.regex(pattern)
    pieces = [id_ for id_, piece in enumerate(PIECES) if piece]
    for size in range(4):
        for ids in itertools.product(pieces, repeat=size):
            data = b"".join(PIECES[id_] or b"" for id_ in ids)
            for end in (17, 18):
                taken = automaton.advance(automaton.start, [*ids, end]) == automaton.done
                assert taken == accepts(by_bytes, data), (ids, data)


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=12),
    pattern=st.sampled_from([*PATTERNS, r"\w+", ".*", "[^b]{2}"]),
)
def test_partial_characters_are_followed_exactly(pieces: list[bytes], pattern: str) -> None:
    letters = [b"a", b"b", b"\xc3", b"\xa9", b"\xe2", b"\x82", b"\xac"]
    vocabulary: list[bytes | None] = [*letters, *pieces, None, None]
    end, pad = len(vocabulary) - 2, len(vocabulary) - 1
    markers = Markers(end, end, end, end, end, (end,), (end,), (pad,))
    automaton = ConstraintCompiler(Vocabulary(vocabulary), markers).regex(pattern).automaton
    single = {byte[0]: id_ for id_, byte in enumerate(letters)}
    for id_, piece in enumerate(vocabulary):
        if piece and all(byte in single for byte in piece):
            alone = [single[byte] for byte in piece]
            for state in range(automaton.states):
                assert automaton.step(state, id_) == automaton.advance(state, alone)


def test_text_tokens_and_control_tokens_never_stand_for_one_another() -> None:
    automaton = SMALL.text().automaton
    assert automaton.allowed(automaton.start).tolist() == [0, 1, 2, 3, 4, 7, 9, 11, 17, 18]
    inside = automaton.step(automaton.start, 7)  # half an é
    assert automaton.allowed(inside).tolist() == [8, 10]
    assert automaton.allowed(automaton.done).tolist() == [20]
    unusable = automaton.class_of[[5, 6, 12, 13, 14, 15, 16, 19]]
    assert len(set(unusable.tolist())) == 1
    assert unusable[0] not in automaton.set_classes


def test_a_refused_token_is_refused_for_good() -> None:
    automaton = SMALL.regex("ab").automaton
    assert automaton.step(automaton.start, 1) == -1
    assert automaton.step(-1, 0) == -1
    assert automaton.step(automaton.start, 99) == -1
    assert automaton.step(automaton.start, -1) == -1
    assert automaton.advance(automaton.start, [1, 0, 17]) == -1
    assert automaton.advance(automaton.start, [2, 17, 20, 20]) == automaton.done
    assert automaton.advance(automaton.start, [2, 17, 20, 0]) == -1


def test_states_that_no_token_reaches_are_gone() -> None:
    pieces: list[bytes | None] = [b"ab", b"cd", *[None] * 3]
    markers = Markers(2, 2, 2, 2, 2, (2,), (2,), (3,))
    compiler = ConstraintCompiler(Vocabulary(pieces), markers)
    automaton = compiler.regex("(abcd)*|abc|x").automaton
    assert automaton.states == 5  # ab, abcd, abcdab and both ends; nothing inside a token
    assert sorted(automaton.distance.tolist()) == [0, 1, 1, 2, 2]
    with pytest.raises(ConstraintError, match="or the vocabulary lacks the tokens"):
        compiler.regex("x")


def test_tokens_that_differ_only_where_nobody_comes_are_of_one_class() -> None:
    pieces: list[bytes | None] = [b"a", b"c", *[None] * 2]
    markers = Markers(2, 2, 2, 2, 2, (2,), (2,), (3,))
    automaton = ConstraintCompiler(Vocabulary(pieces), markers).regex("[ac]|zzc").automaton
    consistent(automaton)
    assert automaton.class_of[0] == automaton.class_of[1]
    assert automaton.classes == 4  # those two, the end, padding, and one for tokens in no set


def test_walks_end_in_time(judges: Any, tiny: ConstraintCompiler) -> None:
    automaton = tiny.schema(True).automaton
    walker, draw = judges.Walker(automaton), random.Random(0)
    for length in (2, 3, 5, 17):
        for _ in range(20):
            assert len(walker.walk(draw, length)) <= length


def test_a_vocabulary_needs_tokens() -> None:
    with pytest.raises(ConstraintError, match="at least one token"):
        Vocabulary([])
    with pytest.raises(SettingError, match="at least one id as 'ends'"):
        Markers(1, 2, 3, 4, 5, (), (6,), (7,))


def test_tokens_of_equal_bytes_are_of_one_class() -> None:
    pieces: list[bytes | None] = [b"a", b"b", b"a", None, None]
    markers = Markers(3, 3, 3, 3, 3, (3,), (3,), (4,))
    automaton = ConstraintCompiler(Vocabulary(pieces), markers).regex("a+").automaton
    assert automaton.class_of[0] == automaton.class_of[2] != automaton.class_of[1]


def test_the_full_size_tokenizer_spells_json(judges: Any, full_size: ConstraintCompiler) -> None:
    schema = judges.samples.record(name={"type": "string"}, age={"type": "integer"})
    automaton = full_size.schema(schema).automaton
    assert len(automaton.class_of) == 262_144
    assert automaton.states < 60
    draw, walker = random.Random(1), judges.Walker(automaton)
    for _ in range(20):
        text = judges.spelt(walker.walk(draw, 40), full_size.vocabulary)
        assert json.loads(text).keys() == {"name", "age"}
