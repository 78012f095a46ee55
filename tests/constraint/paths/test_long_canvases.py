"""Canvases longer than a block of a sweep, extreme weights, and answers over several canvases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dgemma_backend.constraint.decode import ConstrainedAnswer, best_path
from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.paths_sum import PathSums
from dgemma_backend.errors import ConstraintError, GenerationError, NonFiniteLogitsError


def token_total(case: Any, logits: NDArray[Any], left: int, fold: Callable[..., Any]) -> Any:
    """One position, one state, one token after the other: what a sweep must give at the start."""
    table, automaton = case.table, case.automaton
    values = np.where(automaton.distance <= max(left, 0), 0.0, -np.inf)
    for place in range(len(logits) - 1, -1, -1):
        if left < 0 and place + 1 == len(logits) + left:
            values = np.where(np.arange(len(table)) == automaton.done, values, -np.inf)
        behind = np.where(table >= 0, values[table] + logits[place], -np.inf)
        values = fold(behind, axis=1)
    return values[automaton.start]


@pytest.mark.parametrize("spread", [0.01, 5.0, 2000.0])
def test_totals_of_long_canvases_neither_overflow_nor_vanish(
    spread: float, new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        case, length = new_case(rng), int(rng.integers(33, 140))
        left = int(rng.choice([-40, -33, -32, -7, -1, 0, 3]))
        if length + left < case.automaton.distance[case.automaton.start]:
            continue
        logits = rng.normal(size=(length, case.table.shape[1])) * spread
        known = class_weights(case, logits)
        tables, start = PathTables(case.automaton), case.automaton.start
        exact = token_total(case, logits, left, np.logaddexp.reduce)
        found = PathSums(tables, start, known.totals, left)
        assert abs(found.log_total - exact) <= 1e-11 * (1 + abs(exact))
        assert np.allclose(found.marginals().sum(axis=1), 1, atol=1e-9)
        ids = best_path(tables, start, known.maxima, known.token, left)
        best = token_total(case, logits, left, np.max)
        assert abs(logits[np.arange(length), ids].sum() - best) <= 1e-9 * (1 + abs(best))
        state = case.automaton.advance(start, ids.tolist())
        assert case.automaton.distance[state] <= max(left, 0)
        for _ in range(5):
            classes = found.sample(rng.random(length))
            tokens = [int(np.flatnonzero(case.automaton.class_of == c)[0]) for c in classes]
            assert case.automaton.distance[case.automaton.advance(start, tokens)] <= max(left, 0)


def test_many_more_paths_than_float64_can_count_have_an_exact_total(
    new_automaton: Callable[..., Any],
) -> None:
    # 40 states, all of them following each other by 40 tokens: 40^200 paths.
    states, length = 40, 200
    table = np.tile(np.arange(states), (states, 1))
    table = np.pad(table, ((0, 1), (2, 0)), constant_values=-1)
    table[:states, 0], table[states, 1] = states, states
    case = new_automaton(table, 0, states)
    totals = np.zeros((length, case.automaton.classes))
    found = PathSums(PathTables(case.automaton), 0, totals, 0)
    exact = np.logaddexp.reduce(np.arange(length) * np.log(states))  # of each length of an answer
    assert abs(found.log_total - exact) < 1e-10 * exact


def test_300_answers_of_random_logits_end_within_their_budget(
    new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    closed = canvases = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        case = new_case(rng, states=20, vocabulary=9)
        need = int(case.automaton.distance[case.automaton.start])
        budget = need + int(rng.integers(0, 50))
        answer = ConstrainedAnswer(PathTables(case.automaton), budget)
        tokens: list[int] = []
        while not answer.finished and len(tokens) < budget + 16:
            logits = rng.normal(size=(16, case.table.shape[1])) * 4
            logits[:, 0] -= 20  # it never wants to end
            known = class_weights(case, logits)
            ids = answer.commit(known.maxima, known.token)
            answer.take(ids)
            tokens += ids
            canvases += 1
        assert 0 in tokens
        assert tokens.index(0) < budget
        assert set(tokens[tokens.index(0) + 1 :]) <= {1}
        closed += case.automaton.advance(case.automaton.start, tokens) == case.automaton.done
    assert closed == 300
    assert canvases > 500


def test_float32_logits_choose_the_path_that_float64_chooses(
    new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        case = new_case(rng)
        logits = (rng.normal(size=(12, case.table.shape[1])) * 6).astype(np.float32)
        known = class_weights(case, logits.astype(np.float64))
        tables, start = PathTables(case.automaton), case.automaton.start
        exact = best_path(tables, start, known.maxima, known.token, 4)
        single = best_path(tables, start, known.maxima.astype(np.float32), known.token, 4)
        assert single.tolist() == exact.tolist()


def test_an_answer_that_cannot_fit_is_refused_before_the_first_canvas(
    new_automaton: Callable[..., Any],
) -> None:
    case = chain(new_automaton, 9)
    tables = PathTables(case.automaton)
    assert ConstrainedAnswer(tables, 10).left == 10
    with pytest.raises(
        ConstraintError, match=r"at least 10 more tokens, .* has 9 left.*max_tokens"
    ):
        ConstrainedAnswer(tables, 9)


def chain(new_automaton: Callable[..., Any], length: int) -> Any:
    """Token 2, `length` times, and the end."""
    table = np.full((length + 2, 4), -1)
    table[np.arange(length), 2] = np.arange(length) + 1
    table[length, 0] = table[length + 1, 1] = length + 1
    return new_automaton(table, 0, length + 1)


def test_ids_that_the_automaton_refuses_are_reported_and_not_committed(
    new_automaton: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    case = chain(new_automaton, 3)
    answer = ConstrainedAnswer(PathTables(case.automaton), 8)
    known = class_weights(case, np.zeros((6, 4)))
    wrong = np.where(known.token == 2, 3, known.token)  # not of the class that it stands for
    with pytest.raises(GenerationError, match="refused by it"):
        answer.commit(known.maxima, wrong)
    assert (answer.state, answer.left) == (case.automaton.start, 8)
    ids = answer.commit(known.maxima, known.token)
    assert ids == [2, 2, 2, 0, 1, 1]
    assert not answer.finished  # until it is told what became of them
    answer.take(ids)
    assert answer.finished
    assert answer.left == 2
    with pytest.raises(GenerationError):
        answer.take([2])


def test_less_than_a_canvas_may_be_taken_but_not_so_that_the_end_no_longer_fits(
    new_automaton: Callable[..., Any],
) -> None:
    table = np.array([[2, -1, 0], [-1, 1, -1]])  # token 2 as often as wanted
    table[0, 0] = 1
    answer = ConstrainedAnswer(PathTables(new_automaton(table, 0, 1).automaton), 4)
    answer.take([2, 2])
    assert answer.left == 2
    with pytest.raises(GenerationError, match="leave 0 tokens, too few to end"):
        answer.take([2, 2])
    answer.take([2, 0])
    assert answer.finished


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    poison: float, new_automaton: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    case = chain(new_automaton, 3)
    tables, known = PathTables(case.automaton), class_weights(case, np.zeros((6, 4)))
    known.maxima[4, 1] = known.totals[4, 1] = poison
    with pytest.raises(NonFiniteLogitsError, match="1 of 6 canvas positions .* position 4 first"):
        best_path(tables, 0, known.maxima, known.token, 0)
    with pytest.raises(NonFiniteLogitsError, match="position 4 first"):
        PathSums(tables, 0, known.totals, 0)
    known.maxima[4] = -np.inf
    with pytest.raises(NonFiniteLogitsError, match="position 4 first"):
        best_path(tables, 0, known.maxima, known.token, 0)


def test_a_class_without_tokens_is_avoided_and_missed_only_where_there_is_no_other(
    new_case: Callable[..., Any], new_automaton: Callable[..., Any], class_weights: Any
) -> None:
    case = chain(new_automaton, 3)
    tables, known = PathTables(case.automaton), class_weights(case, np.zeros((6, 4)))
    other = case.automaton.class_of[3]
    known.maxima[:, other] = -np.inf
    assert best_path(tables, 0, known.maxima, known.token, 0).tolist() == [2, 2, 2, 0, 1, 1]
    known.maxima[1, case.automaton.class_of[2]] = -np.inf
    with pytest.raises(ConstraintError, match="a token class that has no tokens"):
        best_path(tables, 0, known.maxima, known.token, 0)


def test_other_numbers_of_classes_and_broken_automata_are_refused(
    new_automaton: Callable[..., Any],
) -> None:
    case = chain(new_automaton, 3)
    with pytest.raises(ValueError, match=r"shape \(5, 99\); the automaton has"):
        best_path(PathTables(case.automaton), 0, np.zeros((5, 99)), np.zeros((5, 99), int), 0)
    table = np.array([[1, -1, 0, -1], [-1, -1, -1, -1]])  # no padding behind the end
    with pytest.raises(ConstraintError, match="1 of 2 states .* state 1 first"):
        PathTables(new_automaton(table, 0, 1).automaton)
