"""A captured step reads and writes fixed places only: replaying it is taking the next step.

Recording needs CUDA. Here the recorder keeps the function and calls it again, which is what a
graph does, as long as nothing depends on Python state: these tests are about that.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    EntropyBoundSampler,
    StableAndConfident,
    denoise_canvas,
)
from dgemma_backend.runtime.captured_step import CapturedSteps

SETTINGS = DecodingSettings(
    max_denoising_steps=9,
    schedule_steps=9,
    t_min=0.4,
    t_max=0.8,
    entropy_bound=2.0,
    confidence_threshold=50.0,
    stability_threshold=1,
)


def call_again(run: Callable[[], None]) -> Callable[[], None]:
    run()  # as a recorder does, with effects on the buffers that must not matter
    step: Any = run.__self__  # type: ignore[attr-defined]
    recorded = step._taken

    def replay() -> None:
        run()
        for places, results in zip(recorded, step._taken, strict=True):
            for place, result in zip(places, results, strict=True):
                place.copy_(result)  # a graph writes where it wrote when it was recorded
        step._taken = recorded

    return replay


def denoiser(seed: int, settings: DecodingSettings = SETTINGS) -> CanvasDenoiser:
    noise = CanvasNoise(seed, 0, settings.max_denoising_steps, 8, 64, torch.device("cpu"))
    return CanvasDenoiser(
        settings, EntropyBoundSampler(settings), StableAndConfident(settings), noise
    )


@pytest.fixture
def model(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> Iterator[tuple[Any, list[Any]]]:
    with torch.inference_mode():
        model = random_model(toy_facts(), seed=4)
        caches = []
        for length in (5, 19, 11):
            cache = model.new_cache()
            model.encode([torch.arange(length) * 7 % 64], [cache])
            caches.append(cache)
        yield model, caches


def step_by_step(model: Any, cache: Any, canvas: CanvasDenoiser) -> list[Any]:
    context = model.canvas_context([cache])

    def logits_of(tokens: torch.Tensor, guess: torch.Tensor | None) -> Any:
        return model.denoise(tokens[None], None if guess is None else guess[None], context)[0]

    return list(denoise_canvas(logits_of, canvas))


def assert_same_steps(mine: list[Any], wanted: list[Any]) -> None:
    assert len(mine) == len(wanted)
    for one, other in zip(mine, wanted, strict=True):
        assert (one.step, one.stopped, one.temperature) == (
            other.step,
            other.stopped,
            other.temperature,
        )
        for name in ("tokens", "argmax", "proposal", "accepted"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        # Rounding grows two to three times a step through self-conditioning.
        assert torch.allclose(one.entropy, other.entropy, atol=1e-3)


def replayed(steps: CapturedSteps, canvas: CanvasDenoiser, context: Any) -> list[Any]:
    found = []
    while not canvas.done:
        taken = steps.step([canvas], context)
        assert taken is not None
        found.append(canvas.advance(taken[0][0]))
    return found


def test_replayed_steps_are_the_steps_taken_one_by_one(model: tuple[Any, list[Any]]) -> None:
    network, caches = model
    steps = CapturedSteps(network, call_again)
    lengths = set()
    for seed, cache in enumerate(caches * 2):  # one graph serves other prefixes and seeds
        settings = replace(
            SETTINGS, temperature=(1.0, 0.0, 0.5)[seed % 3], max_denoising_steps=4 + seed
        )
        wanted = step_by_step(network, cache, denoiser(seed, settings))
        context = network.canvas_context([cache])
        assert_same_steps(replayed(steps, denoiser(seed, settings), context), wanted)
        lengths.add(len(wanted))
    assert len(steps._kept) == 1
    assert len(lengths) > 3


def test_canvases_may_leave_and_join_between_two_steps(model: tuple[Any, list[Any]]) -> None:
    network, caches = model
    canvases = [
        denoiser(seed, replace(SETTINGS, max_denoising_steps=steps))
        for seed, steps in enumerate((4, 9, 7))
    ]
    steps = CapturedSteps(network, call_again)
    found: list[list[Any]] = [[], [], []]
    for tick in range(12):  # the second starts late, and each leaves when it is done
        rows = [r for r in range(3) if not canvases[r].done and (r != 1 or tick >= 2)]
        if rows:
            context = network.canvas_context([caches[r] for r in rows])
            taken = steps.step([canvases[r] for r in rows], context)
            assert taken is not None
            for row, (each, _) in zip(rows, taken, strict=True):
                found[row].append(canvases[row].advance(each))
    for row, cache in enumerate(caches):
        alone = denoiser(row, canvases[row].settings)
        assert_same_steps(found[row], step_by_step(network, cache, alone))


def test_what_a_step_returned_does_not_change_with_the_next(
    model: tuple[Any, list[Any]],
) -> None:
    network, caches = model
    canvas, steps = denoiser(1), CapturedSteps(network, call_again)
    context = network.canvas_context(caches[:1])
    taken = steps.step([canvas], context)
    assert taken is not None
    first = taken[0][0]
    kept = [x.clone() for x in first if x is not None]
    canvas.advance(first)
    steps.step([canvas], context)
    now = [x for x in first if x is not None]
    assert len(now) == 7
    assert all(torch.equal(x, y) for x, y in zip(now, kept, strict=True))


def test_what_cannot_be_captured_is_left_to_the_caller(model: tuple[Any, list[Any]]) -> None:
    network, caches = model
    steps = CapturedSteps(network, call_again)
    context = network.canvas_context(caches[:1])
    restricted = denoiser(0, replace(SETTINGS, top_k=3))
    assert steps.step([restricted], context) is None
    foreign = denoiser(0)
    foreign.sampler = type("Foreign", (), {"accept": lambda self, entropy: entropy < 1})()
    assert steps.step([foreign], context) is None


def test_a_device_that_cannot_record_is_named_once_and_not_asked_again(
    model: tuple[Any, list[Any]],
) -> None:
    network, caches = model
    asked = []

    def refuse(run: Callable[[], None]) -> Callable[[], None]:
        asked.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    steps = CapturedSteps(network, refuse)
    context = network.canvas_context(caches[:1])
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing"):
        assert steps.step([denoiser(0)], context) is None
    assert steps.step([denoiser(0)], context) is None
    assert len(asked) == 1
