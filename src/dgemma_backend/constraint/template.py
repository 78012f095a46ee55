"""Texts with holes: what is fixed stays as it is, a hole takes a bounded number of tokens.

Bounds count tokens, so the parts are joined as automata over tokens, not over bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import Ints, TokenAutomaton
from dgemma_backend.constraint.expression import (
    ANY_TEXT,
    Control,
    Expression,
    Repeat,
    characters,
    choice,
    sequence,
)
from dgemma_backend.constraint.finishing import finished
from dgemma_backend.constraint.lifting import NOWHERE, TokenMoves, lifted
from dgemma_backend.constraint.limits import Budget
from dgemma_backend.constraint.machine import determinise
from dgemma_backend.constraint.minimise import minimised
from dgemma_backend.constraint.regex import full_match
from dgemma_backend.constraint.vocabulary import Vocabulary
from dgemma_backend.errors import ConstraintError


@dataclass(frozen=True)
class Hole:
    """A place for `min_tokens` to `max_tokens` tokens of text.

    With `regex` the whole of it must match, with `choices` it is one of them.
    """

    max_tokens: int
    min_tokens: int = 0
    regex: str | None = None
    choices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(each, int) for each in (self.max_tokens, self.min_tokens)):
            raise ConstraintError(
                f"a hole's bounds must be whole numbers; got min_tokens={self.min_tokens!r}, "
                f"max_tokens={self.max_tokens!r}"
            )
        if not 0 <= self.min_tokens <= self.max_tokens or self.max_tokens < 1:
            raise ConstraintError(
                f"a hole takes at least one token, and min_tokens <= max_tokens; got "
                f"min_tokens={self.min_tokens}, max_tokens={self.max_tokens}"
            )
        if self.regex is not None and self.choices is not None:
            raise ConstraintError("a hole has either a regex or choices, not both")
        if self.choices is not None:
            if isinstance(self.choices, str):
                raise ConstraintError(f"choices={self.choices!r} must be a list of texts")
            object.__setattr__(self, "choices", tuple(self.choices))  # a list will do as well
            if not self.choices or not all(self.choices):
                raise ConstraintError("a hole needs choices that are not empty")


@dataclass(frozen=True)
class FixedTokens:
    """Text that must come as just these tokens; a string may come as any that spell it."""

    ids: tuple[int, ...]


Part = str | FixedTokens | Hole


def template_automaton(
    parts: Sequence[Part],
    vocabulary: Vocabulary,
    ends: tuple[int, ...],
    padding: tuple[int, ...],
    budget: Budget,
) -> TokenAutomaton:
    """Answers that are the parts in order, an end token, and padding for ever.

    Raises ConstraintError when a hole has no room for what it must hold.
    """
    if not parts:
        raise ConstraintError("a template needs at least one part, got none")
    fixed = {each for part in parts if isinstance(part, FixedTokens) for each in part.ids}
    if closing := fixed & {*ends, *padding}:
        raise ConstraintError(
            f"token {min(closing)} ends an answer or pads it, so it cannot be a fixed token"
        )
    fragments = [_fragment(part, vocabulary, budget) for part in parts]
    end = sequence(Control(ends), Repeat(Control(padding), 0, None))
    fragments.append(_lifted(end, vocabulary, budget))
    return finished(concatenated(fragments, budget), budget)


def _fragment(part: Part, vocabulary: Vocabulary, budget: Budget) -> TokenMoves:
    match part:
        case str():
            return _lifted(sequence(part), vocabulary, budget)
        case FixedTokens(ids):
            return _chain(ids, vocabulary)
        case Hole():
            body: Expression = ANY_TEXT
            if part.regex is not None:
                body = full_match(part.regex, lambda spans: characters(*spans))
            elif part.choices is not None:
                body = choice(*part.choices)
            moves = _lifted(body, vocabulary, budget)
            return counted(moves, part.min_tokens, part.max_tokens, budget)


def _lifted(expression: Expression, vocabulary: Vocabulary, budget: Budget) -> TokenMoves:
    return lifted(minimised(determinise(expression, budget), budget), vocabulary, budget)


def _chain(ids: Sequence[int], vocabulary: Vocabulary) -> TokenMoves:
    """Just these tokens, one after another."""
    if strange := [each for each in ids if not 0 <= each < len(vocabulary)]:
        raise ConstraintError(
            f"token {strange[0]} is not in the vocabulary, which has {len(vocabulary)} tokens"
        )
    distinct, classes = np.unique(np.array(ids, dtype=np.int64), return_inverse=True)
    class_of = np.full(len(vocabulary), NOWHERE, dtype=np.int32)
    class_of[distinct] = np.arange(len(distinct))
    order = np.argsort(classes, kind="stable").astype(np.int32)
    return TokenMoves(
        class_of, len(distinct), classes[order].astype(np.int32), order,
        (order + 1).astype(np.int32),
        np.arange(len(ids) + 1) == len(ids),
    )  # fmt: skip


def counted(moves: TokenMoves, least: int, most: int, budget: Budget) -> TokenMoves:
    """The sequences of `moves` that have `least` to `most` tokens.

    Raises ConstraintError when there is none.
    """
    states = len(moves.accepting)
    budget.check_states(states * (most + 1))
    layer = np.arange(most, dtype=np.int32)[:, None] * np.int32(states)
    source = (layer + moves.source).ravel()
    target = (layer + np.int32(states) + moves.target).ravel()
    token_class = np.tile(moves.token_class, most)
    order = np.argsort(token_class, kind="stable")
    accepting = np.tile(moves.accepting, most + 1)
    accepting[: least * states] = False
    found = TokenMoves(
        moves.class_of, moves.classes, token_class[order], source[order], target[order], accepting
    )
    if not _some_end(found, states, most):
        raise ConstraintError(
            f"a hole of {least} to {most} tokens has no room for what it must hold"
        )
    return found


def _some_end(moves: TokenMoves, states: int, most: int) -> bool:
    reached = np.zeros(len(moves.accepting), dtype=bool)
    if not len(reached):
        return False
    reached[0] = True
    for _ in range(most):
        reached[moves.target[reached[moves.source]]] = True
    return bool((reached & moves.accepting).any())


def concatenated(fragments: Sequence[TokenMoves], budget: Budget) -> TokenMoves:
    """Sequences of the first fragment, then of the second, and so on.

    A token may lead to several states: what could be the fixed text behind a hole could be in the
    hole as well. Telling the two apart would take a state for every combination of counts.
    """
    class_of, classes, members = _joint_classes(fragments)
    first = np.cumsum([0, *(len(moves.accepting) for moves in fragments)]).tolist()
    budget.check_states(first[-1])
    source: list[int] = []
    target: list[int] = []
    label: list[int] = []
    opening: dict[int, int] = {}  # where the fragments behind may begin: target -> classes
    for number in reversed(range(len(fragments))):
        budget.check_time()
        moves, offset = fragments[number], first[number]
        edges = _edges_of(moves, offset, members[number])
        for state in (np.flatnonzero(moves.accepting) + offset).tolist():
            edges += [(state, begin, bits) for begin, bits in opening.items()]
        begins = {to: bits for state, to, bits in edges if state == offset}
        opening = begins
        for state, to, bits in edges:
            source.append(state)
            target.append(to)
            label.append(bits)
    accepting = np.zeros(first[-1], dtype=bool)
    accepting[first[-2] :] = fragments[-1].accepting
    return _unpacked(class_of, classes, source, target, label, accepting)


def _edges_of(moves: TokenMoves, offset: int, members: list[int]) -> list[tuple[int, int, int]]:
    """Source, target and joint classes of a fragment's moves, its states counted from `offset`."""
    edges: dict[tuple[int, int], int] = {}
    rows = zip(
        (moves.source + offset).tolist(),
        (moves.target + offset).tolist(),
        moves.token_class.tolist(),
        strict=True,
    )
    for source, target, each in rows:
        edges[source, target] = edges.get((source, target), 0) | members[each]
    return [(source, target, bits) for (source, target), bits in edges.items()]


def _joint_classes(
    fragments: Sequence[TokenMoves],
) -> tuple[Ints, int, list[list[int]]]:
    """Classes of tokens that no fragment tells apart.

    Also, for each class of each fragment in turn, a set of joint classes, bit by bit.
    """
    joint = np.zeros(len(fragments[0].class_of), dtype=np.int64)
    for moves in fragments:
        key = joint * (moves.classes + 1) + moves.class_of + 1
        _, joint = np.unique(key, return_inverse=True)
    _, example = np.unique(joint, return_index=True)
    members: list[list[int]] = []
    for moves in fragments:
        bits = [0] * moves.classes
        for number, old in enumerate(moves.class_of[example].tolist()):
            if old != NOWHERE:
                bits[old] |= 1 << number
        members.append(bits)
    return joint.astype(np.int32), len(example), members


def _unpacked(
    class_of: Ints,
    classes: int,
    source: list[int],
    target: list[int],
    label: list[int],
    accepting: NDArray[np.bool_],
) -> TokenMoves:
    """Edges with sets of classes -> a move for each class."""
    size = (classes + 7) // 8
    packed = b"".join(bits.to_bytes(size, "little") for bits in label)
    table = np.frombuffer(packed, dtype=np.uint8).reshape(len(label), size)
    edge, each = np.nonzero(np.unpackbits(table, axis=1, bitorder="little"))
    order = np.lexsort((edge, each))
    edge, token_class = edge[order], each[order].astype(np.int32)
    return TokenMoves(
        class_of, classes, token_class, np.array(source, dtype=np.int32)[edge],
        np.array(target, dtype=np.int32)[edge], accepting,
    )  # fmt: skip
