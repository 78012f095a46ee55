"""An automaton whose letters are tokens: which token may follow which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

UNREACHABLE = 1 << 30
"""The distance of a state that can never end; no state of a finished automaton has it."""


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """All token sequences of a language, each followed by an end token and padding.

    V tokens fall into `classes` classes: tokens of one class do the same in every state. Q states,
    E edges, S sets of classes; every array is int32 and read-only.

    - `class_of` `(V,)`: the class of each token. Tokens usable nowhere share a class in no set.
    - `source`, `target`, `label` `(E,)`: edges, sorted by source. An edge is taken with any token
      whose class is in the set `label`. The sets of one state's edges are disjoint, but for a
      template's, where a token may lead to several states.
    - `set_start` `(S + 1,)`, `set_classes`: the classes of set s are
      `set_classes[set_start[s]:set_start[s + 1]]`, ascending.
    - `start`: the first state. `done`: the state behind the end token, which padding never leaves.
    - `distance` `(Q,)`: the fewest tokens from a state to `done`, the end token included.
    """

    class_of: Ints
    classes: int
    source: Ints
    target: Ints
    label: Ints
    set_start: Ints
    set_classes: Ints
    start: int
    done: int
    distance: Ints

    def __post_init__(self) -> None:
        for array in (self.class_of, self.source, self.target, self.label, self.set_start,
                      self.set_classes, self.distance):  # fmt: skip
            array.setflags(write=False)

    @property
    def states(self) -> int:
        """Q, the number of states."""
        return len(self.distance)

    @cached_property
    def edge_start(self) -> Ints:
        """`(Q + 1,)`: the edges of state q are `edge_start[q]:edge_start[q + 1]`."""
        return np.searchsorted(self.source, np.arange(self.states + 1)).astype(np.int32)

    def classes_of(self, label: int) -> Ints:
        """The classes of one set, ascending."""
        return self.set_classes[self.set_start[label] : self.set_start[label + 1]]

    def step(self, state: int, token: int) -> int:
        """The state after `token`, or -1 where it is refused; see `advance`."""
        return self.advance(state, (token,))

    def advance(self, state: int, tokens: Iterable[int]) -> int:
        """The state after all of `tokens`, or -1 where they are refused.

        Where a token leads to several states, the one that is nearest to the end.
        """
        states = {state} if state >= 0 else set[int]()
        for token in tokens:
            states = {target for each in states for target in self._targets(each, int(token))}
        return min(states, key=lambda each: (int(self.distance[each]), each), default=-1)

    def _targets(self, state: int, token: int) -> Iterator[int]:
        if not 0 <= token < len(self.class_of):
            return
        wanted = self.class_of[token]
        for edge in range(self.edge_start[state], self.edge_start[state + 1]):
            classes = self.classes_of(self.label[edge])
            place = int(np.searchsorted(classes, wanted))
            if place < len(classes) and classes[place] == wanted:
                yield int(self.target[edge])

    def allowed(self, state: int) -> Ints:
        """Ids of the tokens that `state` takes, ascending."""
        edges = range(self.edge_start[state], self.edge_start[state + 1])
        taken = np.zeros(self.classes, dtype=bool)
        for edge in edges:
            taken[self.classes_of(self.label[edge])] = True
        return np.flatnonzero(taken[self.class_of]).astype(np.int32)
