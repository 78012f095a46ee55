"""Random automata over a few tokens, and every string they could be asked about."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import TokenAutomaton

END, PAD = 0, 1
Table = NDArray[np.int64]  # (Q, V): the state after each token, -1 where it is refused


class Case(NamedTuple):
    automaton: TokenAutomaton
    table: Table  # the same automaton, spelled out; state for state

    def accepted(self, length: int, left: int, state: int | None = None) -> NDArray[np.int64]:
        """Every string `(N, L)` from a state that may stand in a canvas, in the order of ids."""
        vocabulary, distance = self.table.shape[1], self.automaton.distance
        strings = np.indices((vocabulary,) * length).reshape(length, -1).T
        at = np.full(len(strings), self.automaton.start if state is None else state)
        for place in range(length):
            # A canvas that `left` cuts short has its answer complete by then.
            if left < 0 and place == length + left:
                at = np.where(at == self.automaton.done, at, -1)
            at = np.where(at >= 0, self.table[at, strings[:, place]], -1)
        ends = (at >= 0) & (distance[at] <= max(left, 0)) & (length + left >= 0)
        found: NDArray[np.int64] = strings[ends]
        return found


def automaton_of(table: Table, start: int, done: int) -> Case | None:
    """States that can be reached and can end; None where the start cannot."""
    states = len(table)
    distance = np.full(states + 1, 1 << 30)
    distance[done] = 0
    for _ in range(states):
        distance[:-1] = np.minimum(distance[:-1], distance[table].min(axis=1) + 1)
    reached = {start}
    frontier = [start]
    while frontier:
        for state in table[frontier.pop()]:
            if state >= 0 and state not in reached and distance[state] < 1 << 30:
                reached.add(int(state))
                frontier.append(int(state))
    if distance[start] >= 1 << 30:
        return None
    kept = sorted(reached | {done})
    number = np.full(states + 1, -1)
    number[kept] = np.arange(len(kept))
    table = number[table[kept]]
    columns, class_of = np.unique(table, axis=1, return_inverse=True)
    source: list[int] = []
    target: list[int] = []
    label: list[int] = []
    sets: dict[tuple[int, ...], int] = {}
    for state, row in enumerate(columns):
        for into in np.unique(row[row >= 0]).tolist():
            members = tuple(np.flatnonzero(row == into).tolist())
            source.append(state)
            target.append(into)
            label.append(sets.setdefault(members, len(sets)))
    automaton = TokenAutomaton(
        class_of=class_of.ravel().astype(np.int32),
        classes=columns.shape[1],
        source=np.array(source, dtype=np.int32),
        target=np.array(target, dtype=np.int32),
        label=np.array(label, dtype=np.int32),
        set_start=np.cumsum([0, *map(len, sets)]).astype(np.int32),
        set_classes=np.array([c for members in sets for c in members], dtype=np.int32),
        start=int(number[start]),
        done=int(number[done]),
        distance=distance[kept].astype(np.int32),
    )
    return Case(automaton, table)


def random_case(rng: np.random.Generator, states: int = 6, vocabulary: int = 6) -> Case:
    """A random automaton; its tokens 0 and 1 are the end and padding."""
    while True:
        states_here = int(rng.integers(1, states + 1))
        tokens = int(rng.integers(3, vocabulary + 1))
        done = states_here
        table = rng.integers(0, states_here, (states_here + 1, tokens))
        table[rng.random(table.shape) < rng.choice([0.2, 0.5, 0.7])] = -1
        if rng.random() < 0.5:  # tokens that do the same
            table[:, -1] = table[:, 2]
        table[:, END] = np.where(rng.random(states_here + 1) < 0.5, done, -1)
        table[:, PAD] = table[done] = -1
        table[done, PAD] = done
        case = automaton_of(table, 0, done)
        if case is not None:
            return case


class Weights(NamedTuple):
    """What a device says of classes, from logits `(L, V)`, in float64."""

    maxima: NDArray[np.float64]
    token: NDArray[np.int64]
    totals: NDArray[np.float64]
    within: NDArray[np.float64]


def weights_of(case: Case, logits: NDArray[np.float64]) -> Weights:
    """By the definitions, one class at a time."""
    classes, class_of = case.automaton.classes, case.automaton.class_of
    shape = len(logits), classes
    found = Weights(np.zeros(shape), np.zeros(shape, int), np.zeros(shape), np.zeros(shape))
    for name in range(classes):
        ids = np.flatnonzero(class_of == name)
        own = logits[:, ids]
        found.maxima[:, name], found.token[:, name] = own.max(1), ids[own.argmax(1)]
        total = np.logaddexp.reduce(own, axis=1)
        share = np.exp(own - total[:, None])
        found.totals[:, name] = total
        found.within[:, name] = -(share * (own - total[:, None])).sum(1)
    return found


@pytest.fixture
def new_case() -> Callable[..., Case]:
    return random_case


@pytest.fixture
def class_weights() -> Callable[[Case, NDArray[np.float64]], Weights]:
    return weights_of


@pytest.fixture
def new_automaton() -> Callable[..., Case | None]:
    return automaton_of
