"""A token automaton laid out for sweeps over the positions of a canvas, on the host.

A path takes one edge a position. All that is asked of paths (the best one, their sum, a random
one) starts with one sweep from the last position to the first: the value of a state is the best,
or the sum, over its edges of the edge's weight and the value of the state it leads to. That is
three numpy calls a position, whatever the vocabulary: weights are those of token classes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import TokenAutomaton
from dgemma_backend.errors import ConstraintError, NonFiniteLogitsError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

BLOCK = 32  # positions whose edge weights are laid out at a time, so that they stay in the cache


class PathTables:
    """One automaton with what every sweep needs of it.

    Made once per automaton and never changed, so threads may share it. The edges of state q are
    those from `bounds[q]` to `bounds[q + 1]`.

    Raises `ConstraintError` when a state has no edge, or a set of classes is empty.
    """

    def __init__(self, automaton: TokenAutomaton) -> None:
        self.automaton = automaton
        self.source: Places = automaton.source.astype(np.intp)
        self.target: Places = automaton.target.astype(np.intp)
        self.label: Places = automaton.label.astype(np.intp)
        bounds = automaton.edge_start.astype(np.intp)
        self.first: Places = bounds[:-1]
        if stuck := np.flatnonzero(np.diff(bounds) == 0).tolist():
            raise ConstraintError(
                f"{len(stuck)} of {automaton.states} states of the automaton have no token to go "
                f"on with, state {stuck[0]} first: every state must lead to the end, and the "
                "last one must take padding."
            )
        # A walk asks for one state at a time, where numpy's calls cost more than Python's.
        self.bounds: list[int] = bounds.tolist()
        self.labels: list[int] = self.label.tolist()
        self.targets: list[int] = self.target.tolist()
        self.set_start: Places = automaton.set_start.astype(np.intp)
        self.set_classes: Places = automaton.set_classes.astype(np.intp)
        sizes = np.diff(self.set_start)
        if empty := np.flatnonzero(sizes == 0).tolist():
            raise ConstraintError(f"Set {empty[0]} of the automaton holds no token class.")
        # Sets of the same size are folded together; most are one class, and need no fold.
        self._set_first = self.set_classes[self.set_start[:-1]]
        self._larger = [
            (places, self.set_classes[self.set_start[places][:, None] + np.arange(size)])
            for size in np.unique(sizes[sizes > 1])
            for places in [np.flatnonzero(sizes == size)]
        ]

    def blocks(self, length: int, left: int) -> Iterator[tuple[int, int]]:
        """Positions in blocks `(begin, end)`, the last first, for `sweep` to go through.

        Where `left` takes positions away, one block begins at the first of them.
        """
        within, end = length + min(left, 0), length
        while end > 0:
            begin = max(end - BLOCK, within if end > within else 0)
            yield begin, end
            end = begin

    def ends(self, left: int) -> Floats:
        """Log weights `(Q,)` of ending a canvas in a state: 0, or -inf where it is too far.

        `left` tokens may follow in later canvases; with none the answer has to be complete.
        """
        return np.where(self.automaton.distance <= max(left, 0), 0.0, -np.inf)

    def confine(self, values: Floats, place: int, left: int) -> None:
        """Where `left` takes away all positions from `place` on, the answer is over there.

        `values (L + 1, Q)` are log weights, of which all but that of the last state go.
        """
        if left < 0 and place == len(values) - 1 + left:
            done = self.automaton.done
            over = values[place, done]
            values[place] = -np.inf
            values[place, done] = over

    def sweep(self, values: Floats, weights: Floats, extend: np.ufunc, fold: np.ufunc) -> None:
        """Fill `values (n + 1, Q)` from its last row up, with edge weights `(n, E)`.

        `extend` joins a weight and the value behind it, in place of the weight; `fold` takes the
        edges of a state together: `np.add, np.maximum` for best paths, `np.multiply, np.add` for
        sums.
        """
        target, first, scratch = self.target, self.first, np.empty(len(self.target))
        rows, behind = list(values[:-1]), values[-1]
        for row, weight in zip(reversed(rows), weights[::-1], strict=True):
            behind.take(target, 0, scratch, "clip")  # "raise" would copy the result once more
            extend(weight, scratch, weight)
            fold.reduceat(weight, first, 0, None, row)
            behind = row

    def members(self, labels: Places) -> tuple[Places, Places, Places]:
        """Sets `(n,)` -> the classes of all of them in a row, whose each is, where each begins."""
        begin = self.set_start[labels]
        sizes = self.set_start[labels + 1] - begin
        first = np.cumsum(sizes) - sizes
        places = np.arange(int(sizes.sum())) + np.repeat(begin - first, sizes)
        return self.set_classes[places], np.repeat(np.arange(len(labels)), sizes), first

    def set_maxima(self, classes: NDArray[Any]) -> Floats:
        """Log weights of classes `(L, C)` -> the largest of each set, `(L, S)`."""
        rows = np.ascontiguousarray(classes.T)
        found = rows.take(self._set_first, axis=0)
        for places, members in self._larger:
            found[places] = np.maximum.reduce(rows.take(members, axis=0), axis=1)
        return np.ascontiguousarray(found.T, dtype=np.float64)

    def set_totals(self, classes: Floats) -> Floats:
        """Log weights of classes `(L, C)` -> the log of each set's sum, `(L, S)`."""
        rows = np.ascontiguousarray(classes.T)
        found = rows.take(self._set_first, axis=0)
        for places, members in self._larger:
            part = rows.take(members, axis=0)  # (sets, size, L)
            top = part.max(axis=1)
            base = np.where(np.isfinite(top), top, 0.0)
            with np.errstate(divide="ignore"):
                found[places] = np.log(np.exp(part - base[:, None]).sum(axis=1)) + base
        return np.ascontiguousarray(found.T)


def checked_rows(weights: Any, classes: int, what: str) -> NDArray[Any]:
    """`(L, C)` floats as an array.

    Raises `NonFiniteLogitsError` for a row with NaN or +infinity, or with nothing but -infinity
    (-infinity alone is a class without tokens), and `ValueError` for another number of classes.
    """
    rows = np.asarray(weights)
    if rows.ndim != 2 or rows.shape[1] != classes:
        raise ValueError(
            f"{what} have the shape {rows.shape}; the automaton has {classes} classes."
        )
    top = rows.max(axis=1, initial=-np.inf)  # NaN wins
    if len(bad := np.flatnonzero(~np.isfinite(top))):
        raise NonFiniteLogitsError(
            f"{what} of {len(bad)} of {len(rows)} canvas positions are NaN or infinite, position "
            f"{int(bad[0])} first, so no accepted path can be found."
        )
    return rows


def refusal(tables: PathTables, state: int, length: int, left: int) -> ConstraintError:
    """Why there is no accepted path of `length` positions from a state."""
    distance, room = int(tables.automaton.distance[state]), length + left
    if distance > room:
        return ConstraintError(
            f"The answer needs at least {distance} more tokens, its end included, and has "
            f"{room} left: allow more with max_tokens."
        )
    return ConstraintError(
        f"No accepted path of {length} positions exists from state {state}: each one needs a "
        "token class that has no tokens, or a position that is held by another token."
    )
