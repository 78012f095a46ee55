"""The most probable accepted path of a canvas: what a constrained request commits.

An answer of several canvases carries two things from one to the next: the automaton's state, and
how many tokens are left. A path may only end where the rest of the answer still fits, so the last
canvas can always be closed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.paths import Floats, PathTables, Places, checked_rows, refusal
from dgemma_backend.errors import GenerationError

Ids = NDArray[np.int64]


def best_path(tables: PathTables, state: int, maxima: Any, token: Ids, left: int) -> Ids:
    """The ids `(L,)` of the accepted path from `state` whose logits have the largest sum.

    `maxima (L, C)` are the best logits of each token class, `token (L, C)` their ids. `left`
    tokens may follow in later canvases: the path ends in a state that is no farther than that
    from the end. A negative `left` takes positions away: the last `-left` hold padding only.
    Sums are in float64. Of paths of equal sum it is the one with the lowest ids, the first
    position first (Viterbi's algorithm from the back, so that the walk goes forwards).

    Raises `ConstraintError` when no such path exists, `NonFiniteLogitsError` for NaN.
    """
    rows = checked_rows(maxima, tables.automaton.classes, "The best logits")
    length = len(rows)
    if length + left < 0:
        raise refusal(tables, state, length, left)
    values = np.empty((length + 1, tables.automaton.states))
    values[length] = tables.ends(left)
    weights = tables.set_maxima(rows).take(tables.label, axis=1)
    for begin, end in tables.blocks(length, left):
        tables.sweep(values[begin : end + 1], weights[begin:end], np.add, np.maximum)
        tables.confine(values, begin, left)
    if values[0, state] == -np.inf:
        raise refusal(tables, state, length, left)
    return _walk(tables, state, weights, rows, token)


def _walk(tables: PathTables, state: int, sums: Floats, rows: NDArray[Any], token: Ids) -> Ids:
    """Along the edges whose sums `(L, E)` are the best; where several are, to the lowest token."""
    bounds, chosen = tables.bounds, []
    for place, row in enumerate(sums):
        edge, end = bounds[state], bounds[state + 1]
        if end - edge > 1:
            own: list[float] = row[edge:end].tolist()
            best = max(own)
            if own.count(best) == 1:
                edge += own.index(best)
            else:
                equal = edge + np.flatnonzero(row[edge:end] == best)
                places = np.full(len(equal), place)
                lowest = _lowest(tables, places, tables.label[equal], rows, token)
                edge = int(equal[lowest.argmin()])
        chosen.append(tables.labels[edge])
        state = tables.targets[edge]
    return _lowest(tables, np.arange(len(rows)), np.array(chosen), rows, token)


def _lowest(
    tables: PathTables, places: Places, labels: Places, rows: NDArray[Any], token: Ids
) -> Ids:
    """The lowest id among the best tokens of each set at its position, `(n,)` all."""
    classes, each, first = tables.members(labels)
    place = places[each]
    value = rows[place, classes]
    best = np.maximum.reduceat(value, first)[each]
    ids = np.where(value == best, token[place, classes], np.iinfo(np.int64).max)
    return np.minimum.reduceat(ids, first).astype(np.int64)


class ConstrainedAnswer:
    """Where a constrained answer stands between two canvases.

    `state` is the automaton's, `left` the tokens that may still come, the end token included.

    Raises `ConstraintError` when the shortest answer does not fit `max_tokens`.
    """

    def __init__(self, tables: PathTables, max_tokens: int) -> None:
        self.tables = tables
        self.state = tables.automaton.start
        self.left = max_tokens
        self._chosen: tuple[list[int], int] = ([], self.state)
        if int(tables.automaton.distance[self.state]) > max_tokens:
            raise refusal(tables, self.state, max_tokens, 0)

    @property
    def finished(self) -> bool:
        """Whether the end token has been committed."""
        return self.state == self.tables.automaton.done

    def after(self, length: int) -> int:
        """Tokens left behind a canvas of `length`; negative where that is too long."""
        return self.left - length

    def best(self, maxima: Any, token: Ids) -> Ids:
        """What would be committed now, `(L,)`; see `best_path`."""
        return best_path(self.tables, self.state, maxima, token, self.after(len(token)))

    def commit(self, maxima: Any, token: Ids) -> list[int]:
        """The ids of the best accepted path, to be committed; `take` says what of them was.

        Raises `GenerationError` if the automaton does not take them: a fault of this package,
        reported rather than passed on.
        """
        ids: list[int] = self.best(maxima, token).tolist()
        automaton, left = self.tables.automaton, max(self.after(len(ids)), 0)
        state = automaton.advance(self.state, ids)
        if state < 0 or int(automaton.distance[state]) > left:
            raise GenerationError(
                f"The ids chosen from state {self.state} of the automaton "
                + ("are refused by it" if state < 0 else f"cannot end within {left} tokens")
                + ". This is a bug: please report it with the schema or the pattern."
            )
        self._chosen = ids, state
        return ids

    def take(self, ids: Sequence[int]) -> None:
        """The answer goes on behind these ids. Raises `GenerationError` where it cannot."""
        known, left = self._chosen, self.left - len(ids)
        whole = known[0] == list(ids)  # else something of the canvas was cut
        state = known[1] if whole else self.tables.automaton.advance(self.state, ids)
        if state < 0 or (left >= 0 and int(self.tables.automaton.distance[state]) > left):
            raise GenerationError(
                f"{len(ids)} committed ids from state {self.state} of the automaton "
                + ("are refused by it." if state < 0 else f"leave {left} tokens, too few to end.")
            )
        self.state, self.left = state, left
