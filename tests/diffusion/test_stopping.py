"""Stop rules look at argmax canvases and entropies only."""

from types import SimpleNamespace

import torch

from dgemma_backend.diffusion import AnyOf, Never, StableAndConfident, StepStatistics


def watch(rule: object, canvases: list[list[int]], entropies: list[float]) -> list[bool]:
    state = rule.start()  # type: ignore[attr-defined]
    return [
        bool(
            state.update(
                StepStatistics(i + 1, torch.tensor(c), torch.full((len(c),), e, dtype=torch.double))
            )
        )
        for i, (c, e) in enumerate(zip(canvases, entropies, strict=True))
    ]


def rule(confidence: float = 0.005, stability: int = 1) -> StableAndConfident:
    return StableAndConfident(
        SimpleNamespace(confidence_threshold=confidence, stability_threshold=stability)
    )


def test_one_step_is_never_enough_however_sure() -> None:
    assert watch(rule(), [[1, 2]], [0.0]) == [False]


def test_a_repeated_canvas_ends_only_when_it_is_sure() -> None:
    assert watch(rule(), [[1], [1], [1]], [0.0, 0.006, 0.004]) == [False, False, True]


def test_the_threshold_itself_is_not_below_the_threshold() -> None:
    assert watch(rule(0.5), [[1], [1]], [0.0, 0.5]) == [False, False]


def test_stability_two_wants_three_equal_canvases() -> None:
    canvases = [[1], [2], [2], [2]]
    assert watch(rule(stability=2), canvases, [0.0] * 4) == [False, False, False, True]


def test_stability_zero_asks_for_confidence_alone() -> None:
    assert watch(rule(stability=0), [[1], [2]], [1.0, 0.0]) == [False, True]


def test_each_canvas_starts_without_memory_of_the_last() -> None:
    shared = rule()
    assert watch(shared, [[1], [1]], [0.0, 0.0])[-1]
    assert watch(shared, [[1]], [0.0]) == [False]


def test_any_of_ends_with_the_first_and_shows_every_step_to_all() -> None:
    both = AnyOf([Never(), rule(stability=2), rule(confidence=1e-9)])
    assert watch(both, [[1], [1], [1]], [0.001] * 3) == [False, False, True]
    assert watch(AnyOf([]), [[1]], [0.0]) == [False]
