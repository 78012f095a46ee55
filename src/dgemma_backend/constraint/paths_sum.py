"""The model's distribution over the accepted paths of a canvas: total, marginals, samples.

A path has the product of its tokens' weights, so tokens at different positions are independent
but for being accepted together. Everything is exact up to float64's rounding. A string that a
template's automaton reads in several ways counts as often as that.
"""

import math
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.paths import BLOCK, Floats, PathTables, Places, checked_rows, refusal


class PathSums:
    """All accepted paths of a canvas from one state, weighted.

    `totals (L, C)` are the log-sum-exp of each token class at the step's temperature; `left` as
    in `best_path`. `log_total` is the log of the sum over all paths (log Z).

    Raises `ConstraintError` when there is no path, `NonFiniteLogitsError` for NaN.
    """

    def __init__(self, tables: PathTables, state: int, totals: Any, left: int) -> None:
        rows = checked_rows(totals, tables.automaton.classes, "The sums of the token classes")
        if len(rows) + left < 0:
            raise refusal(tables, state, len(rows), left)
        self._tables, self._state, self._left = tables, state, left
        self._totals: Floats = rows.astype(np.float64)
        self._sets = tables.set_totals(self._totals)
        self._values = self._summed()
        self.log_total = float(self._values[0, state])
        if self.log_total == -np.inf:
            raise refusal(tables, state, len(rows), left)

    def _summed(self) -> Floats:
        """Log of the sum over the paths from each position and state, `(L + 1, Q)`.

        A block is swept twice: for the best path of each state, then for the sum in units of
        it, which lies between one and the number of paths. So nothing under- or overflows.
        """
        tables, left = self._tables, self._left
        values = np.empty((len(self._sets) + 1, tables.automaton.states))
        values[-1] = tables.ends(left)
        memory = np.empty((min(BLOCK, len(self._sets)), len(tables.label)))
        for begin, end in tables.blocks(len(self._sets), left):
            block, sums = values[begin : end + 1], memory[: end - begin]
            self._sets[begin:end].take(tables.label, 1, sums, "clip")
            tables.sweep(block, sums, np.add, np.maximum)
            units = np.empty_like(block)
            units[-1] = block[-1] > -np.inf
            tables.sweep(units, self._shares(block, sums), np.multiply, np.add)
            with np.errstate(divide="ignore"):
                block[:-1] += np.log(units[:-1])
            tables.confine(values, begin, left)
        return values

    def _shares(self, values: Floats, sums: Floats) -> Floats:
        """Of each edge the part it has in the value of its source, in place of `sums (n, E)`."""
        base = np.where(values[:-1] > -np.inf, values[:-1], np.inf)  # none goes on from there
        sums -= base.take(self._tables.source, axis=1)
        np.exp(sums, out=sums)
        return sums

    def sample(self, uniform: Any) -> Places:
        """One uniform number in (0, 1) a position, `(L,)` -> the classes of one whole path, `(L,)`.

        Paths come in proportion to their weights. The number chooses the edge, and what is left
        of it the class among those of the edge.
        """
        tables, state = self._tables, self._state
        rest: list[float] = np.asarray(uniform, dtype=np.float64).tolist()
        chosen: list[int] = []
        for place, (own, behind) in enumerate(zip(self._sets, self._values[1:], strict=True)):
            edge, end = tables.bounds[state], tables.bounds[state + 1]
            if end - edge > 1:
                some = slice(edge, end)
                logs = own.take(tables.label[some]) + behind.take(tables.target[some])
                way, rest[place] = _drawn(logs.tolist(), rest[place])
                edge += way
            chosen.append(tables.labels[edge])
            state = tables.targets[edge]
        return self._classes(np.array(chosen), np.array(rest))

    def _classes(self, labels: Places, uniform: Floats) -> Places:
        """A class of each set `(L,)`, by its share."""
        classes, place, first = self._tables.members(labels)
        log_weight = self._totals[place, classes] - self._sets[place, labels[place]]
        upto = np.concatenate(([0.0], np.exp(log_weight).cumsum()))
        begin, end = upto[first], upto[np.append(first[1:], len(classes))]
        # Rounding must not put a number at the end, behind the last class with weight.
        target = np.minimum(begin + uniform * (end - begin), np.nextafter(end, 0.0))
        found: Places = classes[np.searchsorted(upto, target, side="right") - 1]
        return found

    def marginals(self) -> Floats:
        """The probability that position i holds a token of class c, `(L, C)`; rows sum to 1."""
        tables = self._tables
        occupied: Floats = np.zeros(tables.automaton.states)
        occupied[self._state] = 1.0
        of_sets = np.empty_like(self._sets)
        for begin in range(0, len(self._sets), BLOCK):
            part = slice(begin, begin + BLOCK)
            sums = self._sets[part].take(tables.label, axis=1)
            values = self._values[begin : begin + len(sums) + 1]
            sums += values[1:].take(tables.target, axis=1)
            shares = self._shares(values, sums)
            for place, share in enumerate(shares, start=begin):
                share *= occupied.take(tables.source)
                occupied = _summed_by(tables.target, share, len(occupied))
                of_sets[place] = _summed_by(tables.label, share, of_sets.shape[1])
        return self._of_classes(of_sets)

    def _of_classes(self, of_sets: Floats) -> Floats:
        tables = self._tables
        pairs = tables.set_classes.argsort(kind="stable")
        members = tables.set_classes[pairs]
        sets = np.repeat(np.arange(of_sets.shape[1]), np.diff(tables.set_start))[pairs]
        base = np.where(self._sets > -np.inf, self._sets, 0.0)
        share = self._totals.take(members, axis=1)
        share -= base.take(sets, axis=1)
        np.exp(share, out=share)
        share *= of_sets.take(sets, axis=1)
        found = np.zeros_like(self._totals)
        used, first = np.unique(members, return_index=True)
        found[:, used] = np.add.reduceat(share, first, axis=1)
        return found

    def entropies(self, within: Any) -> Floats:
        """`within (L, C)`: the entropy of a class' own tokens -> that of each position, `(L,)`.

        In nats: the entropy of the class, and the expected one of the token inside it.
        """
        share = self.marginals()
        inside: NDArray[Any] = np.asarray(within, dtype=np.float64)
        known = share > 0
        log = np.log(share, out=np.zeros_like(share), where=known)
        found: Floats = np.where(known, share * (inside - log), 0.0).sum(axis=1)
        return found


def _summed_by(places: Places, values: Floats, count: int) -> Floats:
    """Of each of `count` places the sum of the values there."""
    found: Floats = np.asarray(np.bincount(places, values, count), dtype=np.float64)
    return found


def _drawn(logs: list[float], uniform: float) -> tuple[int, float]:
    """Log weights, of which one is finite at least -> a place by its share, and the number left.

    A place without weight is never drawn.
    """
    top = max(logs)
    weights = [math.exp(log - top) for log in logs]
    upto = list(accumulate(weights))
    target = uniform * upto[-1]
    for place, (weight, end) in enumerate(zip(weights, upto, strict=True)):
        if weight > 0 and target < end:
            return place, (target - (end - weight)) / weight
    place = max(at for at, weight in enumerate(weights) if weight > 0)
    return place, uniform
