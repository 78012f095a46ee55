"""Best path, total, marginals, entropies and samples are what counting every string gives."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dgemma_backend.constraint.decode import best_path
from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.paths_sum import PathSums
from dgemma_backend.errors import ConstraintError

TRIPLES, SHARDS = 2000, 8
GRID = 8
LEFT = (-5, -2, -1, 0, 0, 1, 2, 4)


def triples(new_case: Callable[..., Any], shard: int) -> Iterator[tuple[Any, int, int, Any]]:
    """Random automaton, length, tokens left, generator; every shard has others."""
    for number in range(shard, TRIPLES, SHARDS):
        rng = np.random.default_rng(number)
        case = new_case(rng)
        yield case, int(rng.integers(1, 6)), int(rng.choice(LEFT)), rng


def start_of(case: Any, rng: np.random.Generator) -> int:
    """The start, or where an earlier canvas left off."""
    return case.automaton.start if rng.random() < 0.5 else int(rng.integers(len(case.table)))


def sums_of(logits: NDArray[Any], strings: NDArray[Any]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = logits[np.arange(len(logits)), strings].sum(axis=1)
    return total


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_best_path_is_the_best_of_all_strings_and_of_equals_the_first(
    shard: int, new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    feasible = tied = 0
    for case, length, left, rng in triples(new_case, shard):
        # Halves: their sums are exact, and ties common.
        logits = rng.integers(-1, 2, (length, case.table.shape[1])) / 2
        state, tables = start_of(case, rng), PathTables(case.automaton)
        strings = case.accepted(length, left, state)
        known = class_weights(case, logits)
        if not len(strings):
            with pytest.raises(ConstraintError):
                best_path(tables, state, known.maxima, known.token, left)
            continue
        sums = sums_of(logits, strings)
        found = best_path(tables, state, known.maxima, known.token, left)
        assert found.tolist() == strings[sums.argmax()].tolist()  # the first of equals
        feasible += 1
        tied += int((sums == sums.max()).sum() > 1)
    assert feasible > 120
    assert tied > 30


@pytest.mark.parametrize("shard", range(SHARDS))
def test_total_marginals_and_entropies_are_those_of_all_strings(
    shard: int, new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    feasible = 0
    for case, length, left, rng in triples(new_case, shard):
        vocabulary = case.table.shape[1]
        logits = rng.normal(size=(length, vocabulary)) * rng.choice([0.1, 3.0, 100.0])
        state, tables = start_of(case, rng), PathTables(case.automaton)
        strings = case.accepted(length, left, state)
        known = class_weights(case, logits)
        if not len(strings):
            with pytest.raises(ConstraintError):
                PathSums(tables, state, known.totals, left)
            continue
        feasible += 1
        sums = sums_of(logits, strings)
        exact = np.logaddexp.reduce(sums)
        found = PathSums(tables, state, known.totals, left)
        assert abs(found.log_total - exact) <= 1e-12 * (1 + abs(exact))
        share = np.exp(sums - exact)
        tokens = np.array(
            [[share[strings[:, i] == v].sum() for v in range(vocabulary)] for i in range(length)]
        )
        classes = case.automaton.class_of
        by_class = np.array(
            [tokens[:, classes == c].sum(axis=1) for c in range(case.automaton.classes)]
        ).T
        assert np.abs(found.marginals() - by_class).max() < 1e-12
        log = np.log(tokens, out=np.zeros_like(tokens), where=tokens > 0)
        assert np.abs(found.entropies(known.within) + (tokens * log).sum(axis=1)).max() < 1e-11
    assert feasible > 120


@pytest.mark.parametrize("shard", range(SHARDS))
def test_samples_come_in_proportion_to_the_strings_weights(
    shard: int, new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    # A path's share is the volume of the numbers that draw it: at each position an interval, as
    # long as the share of the paths that go on with this class among those that came so far.
    grid = (np.arange(GRID) + 0.5) / GRID
    for case, length, left, rng in triples(new_case, shard):
        logits = rng.normal(size=(length, case.table.shape[1])) * 2
        state, tables = start_of(case, rng), PathTables(case.automaton)
        strings = case.accepted(length, left, state)
        if not len(strings):
            continue
        sums = PathSums(tables, state, class_weights(case, logits).totals, left)
        of = case.automaton.class_of[strings]
        share = np.exp(sums_of(logits, strings) - sums.log_total)
        uniform = rng.random(length)
        path = sums.sample(uniform)
        for place in range(length):
            drawn = [sums.sample(np.where(np.arange(length) == place, u, uniform)) for u in grid]
            counts = np.bincount([each[place] for each in drawn], minlength=case.automaton.classes)
            same = (of[:, :place] == path[:place]).all(axis=1)
            wanted = np.bincount(of[same, place], share[same], len(counts)) / share[same].sum()
            assert np.abs(counts / GRID - wanted).max() <= 1 / GRID + 1e-9
            assert (counts[wanted == 0] == 0).all()
