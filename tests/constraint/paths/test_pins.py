"""Forced tokens are those that every accepted string has."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.pins import FREE, forced_tokens


def test_forced_tokens_are_those_in_every_accepted_string(new_case: Callable[..., Any]) -> None:
    forced = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        case, length = new_case(rng), int(rng.integers(1, 6))
        left, state = int(rng.integers(-6, 4)), int(rng.integers(len(case.table)))
        strings = case.accepted(length, left, state)
        found = forced_tokens(PathTables(case.automaton), state, length, left)
        if not len(strings):
            assert (found == FREE).all()
            continue
        same = (strings == strings[0]).all(axis=0)
        # A class of several tokens leaves a choice even where it is the only class.
        assert found.tolist() == np.where(same, strings[0], FREE).tolist()
        forced += int(same.sum())
    assert forced > 300


def test_a_whole_literal_and_its_padding_are_forced(new_automaton: Callable[..., Any]) -> None:
    table = np.full((5, 5), -1)
    table[0, 3] = 1
    table[1, 2] = 2
    table[2, 2] = table[2, 4] = 3  # one of two words
    table[3, 0] = table[4, 1] = 4
    tables = PathTables(new_automaton(table, 0, 4).automaton)
    assert forced_tokens(tables, 0, 7, 0).tolist() == [3, 2, FREE, 0, 1, 1, 1]
    assert forced_tokens(tables, 0, 2, 2).tolist() == [3, 2]
    assert forced_tokens(tables, 0, 2, 1).tolist() == [FREE, FREE]  # no such answer
