"""Positions of a canvas that can hold one token only: literals whose place is known.

They need no denoising. Written into the canvas from the first step on, and again after each, they
are context that the other positions can rely on.
"""

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.paths import PathTables

Ids = NDArray[np.int64]

FREE = -1
"""Of a position that more than one token can take."""


def forced_tokens(tables: PathTables, state: int, length: int, left: int) -> Ids:
    """The token `(L,)` that every accepted path from `state` has at a position, or `FREE`.

    `left` as in `best_path`. A canvas without an accepted path has no forced tokens.
    """
    found: Ids = np.full(length, FREE, dtype=np.int64)
    ends = _can_end(tables, length, left)
    if not ends[0, state]:
        return found
    only, reached = _only_tokens(tables), np.zeros(tables.automaton.states, dtype=bool)
    reached[state] = True
    for place in range(length):
        live = reached[tables.source] & ends[place + 1, tables.target]
        tokens = only[live]
        if tokens[0] != FREE and (tokens == tokens[0]).all():
            found[place] = tokens[0]
        reached = np.zeros_like(reached)
        reached[tables.target[live]] = True
    return found


def _can_end(tables: PathTables, length: int, left: int) -> NDArray[np.bool_]:
    """Whether an accepted path goes on from each position and state, `(L + 1, Q)`."""
    values = np.full((length + 1, tables.automaton.states), -np.inf)
    if length + left >= 0:
        values[length] = tables.ends(left)
        for begin, end in tables.blocks(length, left):
            free = np.zeros((end - begin, len(tables.label)))
            tables.sweep(values[begin : end + 1], free, np.add, np.maximum)
            tables.confine(values, begin, left)
    found: NDArray[np.bool_] = values == 0
    return found


def _only_tokens(tables: PathTables) -> Ids:
    """Of each edge its token where it is one, `(E,)`."""
    class_of = tables.automaton.class_of
    single = np.bincount(class_of, minlength=tables.automaton.classes) == 1
    token_of = np.full(tables.automaton.classes, FREE, dtype=np.int64)
    token_of[class_of] = np.arange(len(class_of))
    first = tables.set_classes[tables.set_start[:-1]]
    alone = (np.diff(tables.set_start) == 1) & single[first]
    of_sets: Ids = np.where(alone, token_of[first], FREE)
    return of_sets[tables.label]
