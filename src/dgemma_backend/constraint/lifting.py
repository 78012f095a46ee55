"""From symbols to tokens.

What a token does is a partial function on the states: the function of its first bytes, then that
of its last. A vocabulary has very many tokens and, seen from one automaton, few functions; so the
trie is walked once for all states, and each (function, byte) is computed once. Tokens with the
same function form a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import Ints
from dgemma_backend.constraint.limits import Budget
from dgemma_backend.constraint.minimise import REFUSED, SymbolTable
from dgemma_backend.constraint.vocabulary import Vocabulary

_CHUNK = 1 << 21
NOWHERE = -1


@dataclass(frozen=True)
class TokenMoves:
    """A deterministic automaton over token classes, not trimmed yet.

    `class_of` `(V,)`: class of each token, NOWHERE for tokens without any move. Move i leads from
    `source[i]` with class `token_class[i]` to `target[i]`; moves are sorted by class, then source.
    State 0 is the first; `accepting` `(Q,)` is bool.
    """

    class_of: Ints
    classes: int
    token_class: Ints
    source: Ints
    target: Ints
    accepting: NDArray[np.bool_]


def lifted(table: SymbolTable, vocabulary: Vocabulary, budget: Budget) -> TokenMoves:
    """The automaton `table`, read in tokens of `vocabulary`.

    A token may end inside a character: the states of the automaton keep what is missing.
    """
    functions = _Functions(table.table, budget)
    function_of = np.full(len(vocabulary), NOWHERE, dtype=np.int32)
    above = np.zeros(1, dtype=np.int32)  # the functions of the nodes of the level above
    for depth, level in enumerate(vocabulary.levels):
        node = np.full(len(level.byte), NOWHERE, dtype=np.int32)
        column = table.byte_column[level.byte]
        before = above[level.parent]
        live = np.flatnonzero((before >= 0) & (column != REFUSED))
        if depth == 0:
            node[live] = functions.of_columns[column[live]]
        elif len(live):
            node[live] = functions.then(before[live], column[live])
        function_of[level.token] = node[level.token_node]
        above = node
        if not (node >= 0).any():
            break
    for token, column_number in table.control_column.items():
        if token < len(vocabulary):
            function_of[token] = functions.of_columns[column_number]
    return functions.moves(function_of, table.accepting)


class _Functions:
    """Partial functions on the states, each known once.

    A function is the ascending states it is defined on and where they go. `of_columns` `(C,)` are
    those of the table's columns.
    """

    def __init__(self, table: Ints, budget: Budget) -> None:
        self.table = table
        self.budget = budget
        self.known: dict[tuple[bytes, bytes], int] = {}
        self.sources: list[Ints] = []
        self.targets: list[Ints] = []
        self.followers: dict[int, int] = {}  # function * columns + column -> function
        self.of_columns = np.array(
            [self.number(np.flatnonzero(each >= 0).astype(np.int32), each[each >= 0])
             for each in table.T],
            dtype=np.int32,
        )  # fmt: skip

    def number(self, source: Ints, target: Ints) -> int:
        """The number of a function, new or known; NOWHERE if it is defined on nothing."""
        if not len(source):
            return NOWHERE
        key = (source.tobytes(), target.tobytes())
        found = self.known.setdefault(key, len(self.sources))
        if found == len(self.sources):
            self.sources.append(source)
            self.targets.append(target)
        return found

    def then(self, functions: Ints, columns: Ints) -> Ints:
        """Numbers of the functions followed by the moves of columns, pair by pair."""
        width = self.table.shape[1]
        key = functions.astype(np.int64) * width + columns
        distinct, place = np.unique(key, return_inverse=True)
        fresh = np.array([each for each in distinct.tolist() if each not in self.followers])
        if len(fresh):
            self._compose(fresh // width, fresh % width)
        found = np.array([self.followers[each] for each in distinct.tolist()], dtype=np.int32)
        return found[place]

    def _compose(self, functions: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        length = np.array([len(self.sources[each]) for each in functions.tolist()])
        cuts = np.flatnonzero(np.diff(np.cumsum(length) // _CHUNK, prepend=0)).tolist()
        for first, last in zip([0, *cuts], [*cuts, len(functions)], strict=True):
            if first < last:
                self.budget.check_time()
                self._compose_chunk(functions[first:last], columns[first:last])

    def _compose_chunk(self, functions: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        numbers = functions.tolist()
        sources = np.concatenate([self.sources[each] for each in numbers])
        targets = np.concatenate([self.targets[each] for each in numbers])
        length = np.array([len(self.sources[each]) for each in numbers])
        following = self.table[targets, np.repeat(columns, length)]
        live = following >= 0
        ends = np.cumsum(np.add.reduceat(live, np.cumsum(length) - length, dtype=np.int64))
        sources, following = sources[live], following[live]
        width, first = self.table.shape[1], 0
        keys = (functions * width + columns).tolist()
        for number, (key, last) in enumerate(zip(keys, ends.tolist(), strict=True)):
            if number % 1024 == 0:
                self.budget.check_time()
            self.followers[key] = self.number(sources[first:last], following[first:last])
            first = last

    def moves(self, function_of: Ints, accepting: NDArray[np.bool_]) -> TokenMoves:
        """Classes out of the functions that tokens really have."""
        used, class_of = np.unique(function_of, return_inverse=True)
        if len(used) and used[0] == NOWHERE:
            used, class_of = used[1:], class_of - 1
        length = np.array([len(self.sources[each]) for each in used.tolist()], dtype=np.int64)
        empty = np.empty(0, dtype=np.int32)
        return TokenMoves(
            class_of=class_of.astype(np.int32),
            classes=len(used),
            token_class=np.repeat(np.arange(len(used), dtype=np.int32), length),
            source=np.concatenate([empty, *(self.sources[each] for each in used.tolist())]),
            target=np.concatenate([empty, *(self.targets[each] for each in used.tolist())]),
            accepting=accepting,
        )
