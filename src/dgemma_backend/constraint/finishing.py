"""The last stage: only states that matter, edges with sets of classes, distances to the end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import Ints, TokenAutomaton
from dgemma_backend.constraint.lifting import TokenMoves
from dgemma_backend.constraint.limits import Budget
from dgemma_backend.constraint.minimise import ranges
from dgemma_backend.errors import ConstraintError

_ENDLESS = -1


def finished(moves: TokenMoves, budget: Budget) -> TokenAutomaton:
    """The automaton of `moves`, in which one state accepts: the one behind the end token.

    Raises ConstraintError when no sequence of tokens leads there.
    """
    ends = np.flatnonzero(moves.accepting)
    if not len(ends):
        raise _nothing_fits()
    (done,) = ends.tolist()
    states = len(moves.accepting)
    forward = _Neighbours(moves.source, moves.target, states)
    distance = _Neighbours(moves.target, moves.source, states).steps_from(done, budget)
    reached = forward.steps_from(0, budget)
    kept = (distance != _ENDLESS) & (reached != _ENDLESS)
    if not kept[0]:
        raise _nothing_fits()
    number = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    live = kept[moves.source] & kept[moves.target]
    joined, classes, class_of = _joined(
        moves, live, number[moves.source[live]], number[moves.target[live]], budget
    )
    edges = _edges(*joined, budget)
    return TokenAutomaton(
        class_of=class_of,
        classes=classes,
        **edges,
        start=int(number[0]),
        done=int(number[done]),
        distance=distance[kept].astype(np.int32),
    )


def _nothing_fits() -> ConstraintError:
    return ConstraintError(
        "no answer can have this form: nothing matches it, or the vocabulary lacks the tokens"
    )


class _Neighbours:
    """Which states lie one token further."""

    def __init__(self, source: Ints, target: Ints, states: int) -> None:
        pairs = np.unique(source.astype(np.int64) * states + target)
        self.target = pairs % states
        self.start = np.searchsorted(pairs, np.arange(states + 1) * states)

    def steps_from(self, state: int, budget: Budget) -> NDArray[np.int64]:
        """`(Q,)`: the fewest tokens from `state` to every state, _ENDLESS where there is no way."""
        steps = np.full(len(self.start) - 1, _ENDLESS, dtype=np.int64)
        steps[state] = 0
        fresh, count = np.array([state]), 0
        while len(fresh):
            budget.check_time()
            count += 1
            first = self.start[fresh]
            fresh = self.target[ranges(first, self.start[fresh + 1] - first)]
            fresh = np.unique(fresh[steps[fresh] == _ENDLESS])
            steps[fresh] = count
        return steps


def _joined(
    moves: TokenMoves, live: NDArray[np.bool_], source: Ints, target: Ints, budget: Budget
) -> tuple[tuple[Ints, Ints, Ints], int, Ints]:
    """The live moves, classes that have become equal joined, class of each token.

    Class 0 is that of tokens usable nowhere.
    """
    token_class = moves.token_class[live]
    starts = np.searchsorted(token_class, np.arange(moves.classes + 1)).tolist()
    known: dict[tuple[bytes, bytes], int] = {}
    went = np.zeros(moves.classes + 1, dtype=np.int32)  # NOWHERE finds the last entry
    kept = np.zeros(len(token_class), dtype=bool)
    for number in range(moves.classes):
        if number % 1024 == 0:
            budget.check_time()
        first, last = starts[number], starts[number + 1]
        if first == last:
            continue
        key = source[first:last].tobytes(), target[first:last].tobytes()
        kept[first:last] = key not in known
        went[number] = known.setdefault(key, len(known) + 1)
    joined = went[token_class[kept]], source[kept], target[kept]
    return joined, len(known) + 1, went[moves.class_of]


def _edges(token_class: Ints, source: Ints, target: Ints, budget: Budget) -> dict[str, Ints]:
    """Moves between the same two states as one edge, equal sets of classes as one set."""
    order = np.lexsort((token_class, target, source))
    token_class, source, target = token_class[order], source[order], target[order]
    fresh = np.append(True, (source[1:] != source[:-1]) | (target[1:] != target[:-1]))
    starts = np.flatnonzero(fresh)
    bounds = [*starts.tolist(), len(source)]
    sets: dict[bytes, int] = {}
    label = np.empty(len(starts), dtype=np.int32)
    for edge in range(len(starts)):
        if edge % 1024 == 0:
            budget.check_time()
        content = token_class[bounds[edge] : bounds[edge + 1]].tobytes()
        label[edge] = sets.setdefault(content, len(sets))
    classes = [np.frombuffer(each, dtype=np.int32) for each in sets]
    return {
        "source": source[starts],
        "target": target[starts],
        "label": label,
        "set_start": np.cumsum([0, *map(len, classes)]).astype(np.int32),
        "set_classes": np.concatenate(classes),
    }
