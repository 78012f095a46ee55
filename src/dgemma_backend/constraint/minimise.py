"""A deterministic automaton over symbols -> the smallest equal one, as a table.

Symbols that no state tells apart share a column. States are told apart by refinement that looks
only at states whose successors were split, and leaves the largest part its number (Hopcroft 1971),
all states of a round at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import Ints
from dgemma_backend.constraint.expression import CONTROL
from dgemma_backend.constraint.limits import Budget
from dgemma_backend.constraint.machine import SymbolMachine

REFUSED = -1


@dataclass(frozen=True)
class SymbolTable:
    """A minimal automaton without dead states: `table` `(Q, C)` int32, REFUSED where it stops.

    `byte_column` `(256,)` and `control_column` give the column of a symbol; REFUSED is a byte that
    no state takes. State 0 is the first; `accepting` is `(Q,)` bool. Without any accepted sequence
    Q is 0.
    """

    table: Ints
    byte_column: Ints
    control_column: dict[int, int]
    accepting: NDArray[np.bool_]


def minimised(machine: SymbolMachine, budget: Budget) -> SymbolTable:
    """The smallest automaton with the language of `machine`."""
    table, cuts = _table(machine)
    accepting = np.array(machine.accepting, dtype=bool)
    table, accepting, distance = _without_dead_states(table, accepting, budget)
    if len(table):
        table, accepting = _merged(table, accepting, distance, budget)
    table, columns = _distinct_columns(table, budget)

    def column(symbol: int) -> int:
        return int(columns[np.searchsorted(cuts, symbol, side="right") - 1])

    controls = {
        symbol - CONTROL
        for moves in machine.moves
        for low, high, _ in moves
        for symbol in range(max(low, CONTROL), high + 1)
    }
    found = {each: column(CONTROL + each) for each in sorted(controls)}
    return SymbolTable(
        table=table,
        byte_column=np.array([column(byte) for byte in range(CONTROL)], dtype=np.int32),
        control_column={each: place for each, place in found.items() if place != REFUSED},
        accepting=accepting,
    )


def _table(machine: SymbolMachine) -> tuple[Ints, NDArray[np.int64]]:
    """Next states by (state, interval), and where the intervals of symbols begin."""
    moves = np.array(
        [(state, *move) for state, each in enumerate(machine.moves) for move in each],
        dtype=np.int64,
    ).reshape(-1, 4)
    cuts = np.unique(np.concatenate([moves[:, 1], moves[:, 2] + 1, [0]]))
    first = np.searchsorted(cuts, moves[:, 1])
    width = np.searchsorted(cuts, moves[:, 2] + 1) - first
    table = np.full((len(machine.moves), len(cuts)), REFUSED, dtype=np.int32)
    table[np.repeat(moves[:, 0], width), ranges(first, width)] = np.repeat(moves[:, 3], width)
    return table, cuts


def ranges(first: NDArray[np.int64], width: NDArray[np.int64]) -> NDArray[np.int64]:
    """`first[i], first[i] + 1, ...`, `width[i]` of them, one after another."""
    ends = np.cumsum(width)
    total = int(ends[-1]) if len(ends) else 0
    found: NDArray[np.int64] = np.arange(total) + np.repeat(first - (ends - width), width)
    return found


class _Predecessors:
    """Which states have a move into a state."""

    def __init__(self, table: Ints) -> None:
        source, column = np.nonzero(table >= 0)
        target = table[source, column]
        pairs = np.unique(target.astype(np.int64) * len(table) + source)
        self.source = pairs % max(1, len(table))
        self.start = np.searchsorted(pairs, np.arange(len(table) + 1) * len(table))

    def of(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        first = self.start[states]
        found: NDArray[np.int64] = self.source[ranges(first, self.start[states + 1] - first)]
        return found


def _without_dead_states(
    table: Ints, accepting: NDArray[np.bool_], budget: Budget
) -> tuple[Ints, NDArray[np.bool_], NDArray[np.int64]]:
    """Only states from which something is accepted, and the length of the shortest such.

    Every state is reachable already.
    """
    before = _Predecessors(table)
    distance = np.where(accepting, 0, -1)
    fresh, steps = np.flatnonzero(accepting), 0
    while len(fresh):
        budget.check_time()
        steps += 1
        fresh = before.of(fresh)
        fresh = fresh[distance[fresh] < 0]
        distance[fresh] = steps
        fresh = np.unique(fresh)
    alive = distance >= 0
    if not alive[0]:
        return table[:0], accepting[:0], distance[:0]
    number = np.append(np.where(alive, np.cumsum(alive) - 1, REFUSED), REFUSED)
    return number[table[alive]].astype(np.int32), accepting[alive], distance[alive]


def _merged(
    table: Ints, accepting: NDArray[np.bool_], distance: NDArray[np.int64], budget: Budget
) -> tuple[Ints, NDArray[np.bool_]]:
    """States that accept the same become one; `distance` tells many apart at once."""
    for seed in range(8):  # a second seed only after a collision of two 64 bit hashes
        block = _refined(table, distance, budget, np.random.default_rng(seed))
        _, example, block = np.unique(block, return_index=True, return_inverse=True)
        order = np.argsort(example)  # keeps the first state first
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        block, example = place[block], example[order]
        following = np.append(block, REFUSED)[table]
        if (following == following[example[block]]).all():
            return following[example].astype(np.int32), accepting[example]
    raise AssertionError("eight random hashes collided")


def _refined(
    table: Ints, distance: NDArray[np.int64], budget: Budget, random: np.random.Generator
) -> NDArray[np.int64]:
    """`(Q,)` block numbers; states of one block accept the same, save for a collision of hashes."""
    states, columns = table.shape
    before = _Predecessors(table)
    odd = random.integers(1 << 63, size=columns, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    value = random.integers(1 << 63, size=states + 2, dtype=np.uint64)
    blocks = _Blocks(distance)
    dirty = np.arange(states)
    while len(dirty):
        budget.check_time()
        following = blocks.number[table[dirty]]  # REFUSED finds the last entry
        signature = (value[following] * odd).sum(axis=1, dtype=np.uint64)
        dirty = np.unique(before.of(blocks.split(dirty, signature)))
    return blocks.number[:-1]


class _Blocks:
    """A partition of the states, made finer and finer.

    `number` `(Q + 1,)` is the block of each state, and of REFUSED in the last place.
    """

    def __init__(self, first: NDArray[np.int64]) -> None:
        states = len(first)
        blocks, number = np.unique(first, return_inverse=True)
        self.number = np.append(number, states + 1)
        self.size = np.bincount(number, minlength=states + 2)
        self.count = len(blocks)

    def split(self, dirty: NDArray[np.int64], signature: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Part the `dirty` states of a block by signature, and from its others.

        The largest part keeps the number. Returns the states whose number changed.
        """
        order = np.lexsort((signature, self.number[dirty]))
        dirty, signature = dirty[order], signature[order]
        owner = self.number[dirty]
        fresh = np.ones(len(dirty), dtype=bool)
        fresh[1:] = (owner[1:] != owner[:-1]) | (signature[1:] != signature[:-1])
        group = np.cumsum(fresh) - 1
        group_owner, group_size = owner[fresh], np.bincount(group)
        first = np.flatnonzero(np.append(True, group_owner[1:] != group_owner[:-1]))
        owners = group_owner[first]
        rest = self.size[owners] - np.add.reduceat(group_size, first)
        largest = np.maximum.reduceat(group_size, first)
        place = np.cumsum(np.isin(np.arange(len(group_owner)), first)) - 1  # of a group's owner
        candidates = np.where(group_size == largest[place], np.arange(len(place)), len(place))
        keeper = np.minimum.reduceat(candidates, first)
        rest_moves = (rest < largest) & (rest > 0)
        moves = np.ones(len(place), dtype=bool)
        moves[keeper[rest < largest]] = False
        group_number = np.where(moves, self.count + np.cumsum(moves) - 1, group_owner)
        self.count += int(moves.sum())
        changed = [dirty[moves[group]]]
        others = self._rest(owners[rest_moves], dirty) if rest_moves.any() else None
        self.number[dirty] = group_number[group]
        if others is not None:
            changed.append(others)
        touched = np.concatenate(changed)
        self.size[group_number] = group_size
        self.size[owners[rest >= largest]] = rest[rest >= largest]
        return touched

    def _rest(self, owners: NDArray[np.int64], dirty: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give new numbers to the states of `owners` that are not dirty, and return them."""
        new_number = np.full(len(self.size), REFUSED, dtype=np.int64)
        new_number[owners] = self.count + np.arange(len(owners))
        clean = np.ones(len(self.number) - 1, dtype=bool)
        clean[dirty] = False
        clean &= new_number[self.number[:-1]] >= 0
        states = np.flatnonzero(clean)
        numbers = new_number[self.number[states]]
        self.number[states] = numbers
        self.size[self.count : self.count + len(owners)] = np.bincount(
            numbers - self.count, minlength=len(owners)
        )
        self.count += len(owners)
        return states


def _distinct_columns(table: Ints, budget: Budget) -> tuple[Ints, Ints]:
    """The table with equal columns joined and empty ones gone, and where each column went."""
    budget.check_time()
    known: dict[bytes, int] = {np.full(len(table), REFUSED, dtype=np.int32).tobytes(): REFUSED}
    kept: list[int] = []
    went = np.empty(table.shape[1], dtype=np.int32)
    for column, content in enumerate(np.ascontiguousarray(table.T)):
        place = known.setdefault(content.tobytes(), len(kept))
        if place == len(kept):
            kept.append(column)
        went[column] = place
    return np.ascontiguousarray(table[:, kept]), went
