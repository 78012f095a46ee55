"""Steps under a constraint: accepted strings, in the right proportion, and never a dead end."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dgemma_backend.constraint.decode import ConstrainedAnswer, best_path
from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.steering import Mode, Steering
from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    EntropyBoundSampler,
    StableAndConfident,
    denoise_canvas,
)
from dgemma_kernels import (
    ClassMaxima,
    ClassOrder,
    ClassStatistics,
    Draws,
    VocabularyPass,
    class_order,
)
from dgemma_kernels.class_statistics import class_maxima_reference, class_statistics_reference
from dgemma_kernels.vocab import vocabulary_statistics_reference

CPU = torch.device("cpu")
MODES: list[Mode] = ["off", "joint", "constrained"]


class WrittenLogits:
    """Logits `(L, V)` written out, with what a model's offer."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def dense(self) -> Tensor:
        return self.logits.clone()

    def vocabulary_pass(self, draws: Draws, *, guess: bool) -> VocabularyPass:
        temperature = draws.temperature * torch.where(draws.proposal == 0, 1.0, draws.proposal)
        drawn = vocabulary_statistics_reference(self.dense(), temperature, draws.uniform)
        found = vocabulary_statistics_reference(self.dense(), draws.temperature, draws.uniform)
        return VocabularyPass(*found._replace(sample=drawn.sample), None)

    def class_maxima(self, order: ClassOrder) -> ClassMaxima:
        return class_maxima_reference(self.logits, order)

    def class_statistics(self, order: ClassOrder, draws: Draws) -> ClassStatistics:
        return class_statistics_reference(self.logits, order, draws)


def order_of(case: Any) -> ClassOrder:
    return class_order(torch.from_numpy(case.automaton.class_of.copy()), case.automaton.classes)


def steering_of(case: Any, mode: Mode, max_tokens: int) -> Steering:
    return Steering(ConstrainedAnswer(PathTables(case.automaton), max_tokens), order_of(case), mode)


def draws_of(length: int, proposal: float, uniform: Any) -> Draws:
    temperature = torch.full((length,), 0.7)
    return Draws(temperature, torch.full((length,), proposal), torch.as_tensor(uniform))


def random_logits(rng: np.random.Generator, length: int, case: Any) -> Tensor:
    return torch.from_numpy(rng.normal(size=(length, case.table.shape[1])) * 3).float()


@pytest.mark.parametrize("mode", ["joint", "constrained"])
def test_a_step_is_the_best_string_and_another_one_with_the_entropies_of_its_mode(
    mode: Mode, new_case: Callable[..., Any], class_weights: Callable[..., Any]
) -> None:
    compared = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = new_case(rng)
        length = int(rng.integers(1, 6))
        budget = int(rng.integers(1, 9))
        if budget < case.automaton.distance[case.automaton.start]:
            continue
        steering = steering_of(case, mode, budget)
        strings = case.accepted(length, budget - length)
        logits = random_logits(rng, length, case)
        draws = draws_of(length, 1.0, rng.random(length))
        found = WrittenLogits(logits).vocabulary_pass(draws, guess=False)
        step = steering.step(
            WrittenLogits(logits), found, draws, torch.from_numpy(rng.random(length))
        )
        known = class_weights(case, logits.double().numpy())
        tables, left = steering.answer.tables, budget - length
        best = best_path(tables, case.automaton.start, known.maxima, known.token, left)
        assert step.draft.tolist() == best.tolist()
        assert step.proposal.tolist() in strings.tolist()
        sums = (logits.double().numpy() / 0.7)[np.arange(length), strings].sum(axis=1)
        share = np.exp(sums - np.logaddexp.reduce(sums))
        tokens = np.array([np.bincount(column, share, case.table.shape[1]) for column in strings.T])
        log = np.log(tokens, out=np.zeros_like(tokens), where=tokens > 0)
        exact = -(tokens * log).sum(axis=1)
        assert np.allclose(step.doubt.numpy(), exact, atol=1e-4)
        wanted = found.entropy if mode == "joint" else step.doubt
        assert torch.equal(step.entropy, wanted)
        compared += 1
    assert compared > 30


@pytest.mark.parametrize("proposal", [1.0, 0.4, 2.0])
def test_proposals_are_drawn_at_the_proposals_temperature(
    proposal: float, new_case: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(3)
    case = new_case(rng)
    while len(case.accepted(4, 3)) < 20:
        case = new_case(rng)
    strings = case.accepted(4, 3)
    steering, logits = steering_of(case, "joint", 7), random_logits(rng, 4, case) / 3
    sums = (logits.double().numpy() / 0.7 / proposal)[np.arange(4), strings].sum(axis=1)
    share = np.exp(sums - np.logaddexp.reduce(sums))
    count, seen = 400, np.zeros(len(strings))
    number = {tuple(string): place for place, string in enumerate(strings.tolist())}
    for _ in range(count):
        draws = draws_of(4, proposal, rng.random(4))
        written = WrittenLogits(logits)
        found = written.vocabulary_pass(draws, guess=False)
        step = steering.step(written, found, draws, torch.from_numpy(rng.random(4)))
        seen[number[tuple(step.proposal.tolist())]] += 1
    expected = np.sqrt(share * (1 - share) / count).sum() * np.sqrt(2 / np.pi) / 2
    assert np.abs(seen / count - share).sum() / 2 < 1.5 * expected


def test_at_temperature_0_the_proposals_are_the_draft(new_case: Callable[..., Any]) -> None:
    others = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        case = new_case(rng)
        written, steering = (
            WrittenLogits(random_logits(rng, 20, case)),
            steering_of(case, "joint", 30),
        )
        for proposal in (0.0, 1.0):
            draws = draws_of(20, proposal, rng.random(20))
            found = written.vocabulary_pass(draws, guess=False)
            step = steering.step(written, found, draws, draws.uniform)
            same = torch.equal(step.proposal, step.draft)
            assert same or proposal == 1
            others += not same
    assert others > 3


@pytest.mark.parametrize(("inner", "token"), [(0.1, 2), (0.3, 3), (0.6, 4), (0.9, 5)])
def test_the_second_number_draws_the_token_inside_its_class(
    inner: float, token: int, new_automaton: Callable[..., Any]
) -> None:
    table = np.array([[-1, -1, 1, 1, 1, 1], [2, -1, -1, -1, -1, -1], [-1, 2, -1, -1, -1, -1]])
    steering = steering_of(new_automaton(table, 0, 2), "joint", 3)
    written, draws = WrittenLogits(torch.zeros(3, 6)), draws_of(3, 1.0, np.full(3, 0.99))
    found = written.vocabulary_pass(draws, guess=False)
    step = steering.step(written, found, draws, torch.full((3,), inner, dtype=torch.float64))
    assert step.proposal.tolist() == [token, 0, 1]


def test_logits_that_are_not_finite_are_handed_back(new_case: Callable[..., Any]) -> None:
    rng = np.random.default_rng(1)
    case = new_case(rng)
    logits, draws = random_logits(rng, 20, case), draws_of(20, 1.0, rng.random(20))
    logits[4, 1] = torch.nan
    found = WrittenLogits(logits).vocabulary_pass(draws, guess=False)
    step = steering_of(case, "joint", 30).step(WrittenLogits(logits), found, draws, draws.uniform)
    assert step.draft is found.argmax
    assert step.doubt is found.entropy


def settings_of(temperature: float) -> DecodingSettings:
    return DecodingSettings(
        max_denoising_steps=6,
        schedule_steps=6,
        t_min=0.4,
        t_max=0.8,
        entropy_bound=1.5,
        confidence_threshold=0.05,
        stability_threshold=1,
        temperature=temperature,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_whole_answers_are_accepted_whatever_the_steps_did(
    mode: Mode, temperature: float, new_case: Callable[..., Any]
) -> None:
    settings, canvases, raw = settings_of(temperature), 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        case, length = new_case(rng, states=12, vocabulary=8), 16
        need = int(case.automaton.distance[case.automaton.start])
        budget = need + int(rng.integers(0, 40))
        steering, ids = steering_of(case, mode, budget), []
        while not steering.answer.finished:
            canvas = canvases_of(case, settings, steering, length, canvases)
            logits = WrittenLogits(random_logits(rng, length, case))
            check_steps(case, steering, list(denoise_canvas(always(logits), canvas)))
            committed = canvas.committed(logits)
            likeliest = logits.logits.argmax(dim=1).tolist()
            raw += case.automaton.advance(steering.answer.state, likeliest) >= 0
            steering.answer.take(committed)
            ids += committed
            canvases += 1
        assert case.automaton.advance(case.automaton.start, ids) == case.automaton.done
        assert ids.index(0) < budget
    assert canvases > 15
    assert raw < canvases / 4  # which is what the model alone would have said


def always(logits: WrittenLogits) -> Callable[..., WrittenLogits]:
    """A model that says the same of every canvas."""
    return lambda canvas, guess: logits


def canvases_of(
    case: Any, settings: DecodingSettings, steering: Steering, length: int, number: int
) -> CanvasDenoiser:
    noise = CanvasNoise(5, number, 6, length, case.table.shape[1], CPU)
    noise.pin(steering.pinned(length))
    sampler, stop = EntropyBoundSampler(settings), StableAndConfident(settings)
    return CanvasDenoiser(settings, sampler, stop, noise, guide=steering)


def check_steps(case: Any, steering: Steering, steps: list[Any]) -> None:
    """Under steering, what a step accepts is part of a string that can be completed."""
    answer = steering.answer
    assert steps
    for step in steps if steering.steers else ():
        for string in (step.proposal, step.argmax):
            state = case.automaton.advance(answer.state, string.tolist())
            assert state >= 0
            assert case.automaton.distance[state] <= max(answer.after(len(string)), 0)


def test_literals_stay_in_the_canvas_through_every_step(new_automaton: Callable[..., Any]) -> None:
    table = np.full((6, 7), -1)
    for state, tokens in enumerate(([3], [2], [2, 4, 5, 6], [3])):
        table[state, tokens] = state + 1
    table[4, 0] = table[5, 1] = 5
    case, rng = new_automaton(table, 0, 5), np.random.default_rng(0)
    settings = settings_of(1.0)
    steering = steering_of(case, "joint", 8)
    canvas = canvases_of(case, settings, steering, 8, 0)
    logits = WrittenLogits(random_logits(rng, 8, case))
    seen = [canvas.canvas, *(canvas.canvas for _ in denoise_canvas(always(logits), canvas))]
    pinned = torch.tensor([3, 2, -1, 3, 0, 1, 1, 1])
    assert torch.equal(steering.pinned(8), pinned)
    assert all(torch.equal(each[pinned >= 0], pinned[pinned >= 0]) for each in seen)
    assert len({int(each[2]) for each in seen}) > 1
