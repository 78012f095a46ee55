"""A canvas settles around any function of (canvas, guess); the model is not needed for that."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    EntropyBoundSampler,
    Never,
    StableAndConfident,
    denoise_canvas,
)
from dgemma_backend.diffusion.denoise import Logits
from dgemma_backend.errors import NonFiniteLogitsError

VOCABULARY, LENGTH = 20, 6
SETTINGS = DecodingSettings(
    max_denoising_steps=8,
    schedule_steps=8,
    t_min=0.4,
    t_max=0.8,
    entropy_bound=0.1,
    confidence_threshold=0.005,
    stability_threshold=1,
)
ANSWER = torch.tensor([3, 1, 4, 1, 5, 9])


WriteOut = Callable[[Tensor], Logits]


def sure_of(answer: Tensor, sharpness: float = 30.0) -> Tensor:
    return torch.nn.functional.one_hot(answer, VOCABULARY) * sharpness


def denoiser(settings: DecodingSettings = SETTINGS, seed: int = 0) -> CanvasDenoiser:
    return CanvasDenoiser(
        settings,
        EntropyBoundSampler(settings),
        StableAndConfident(settings),
        CanvasNoise(seed, 0, settings.max_denoising_steps, LENGTH, VOCABULARY, torch.device("cpu")),
    )


def test_a_sure_model_settles_in_two_steps(written_out: WriteOut) -> None:
    canvas = denoiser()
    steps = list(denoise_canvas(lambda c, g: written_out(sure_of(ANSWER)), canvas))
    assert (len(steps), steps[-1].stopped, canvas.done) == (2, True, True)
    assert torch.equal(canvas.argmax, ANSWER)


def test_a_model_without_an_opinion_takes_every_step(written_out: WriteOut) -> None:
    canvas = denoiser()
    flat = written_out(torch.zeros(LENGTH, VOCABULARY))
    steps = list(denoise_canvas(lambda c, g: flat, canvas))
    assert (len(steps), steps[-1].stopped) == (8, False)
    assert all(int(step.accepted.sum()) == 1 for step in steps)


def test_accepted_positions_keep_their_proposal_and_the_rest_is_renoised(
    written_out: WriteOut,
) -> None:
    canvas = denoiser(seed=4)
    noise = CanvasNoise(4, 0, 8, LENGTH, VOCABULARY, torch.device("cpu"))
    logits = torch.randn(LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3
    assert torch.equal(canvas.canvas, noise.first)
    step = canvas.advance(canvas.step(written_out(logits)))
    expected = torch.where(step.accepted, step.proposal, noise.step(1).renoise)
    assert torch.equal(canvas.canvas, expected)
    assert 0 < int(step.accepted.sum()) < LENGTH


def test_the_guess_is_made_between_steps_and_not_after_the_last(written_out: WriteOut) -> None:
    guesses = []

    def logits_of(canvas: Tensor, guess: Tensor | None) -> Logits:
        guesses.append(guess)
        return written_out(sure_of(ANSWER))

    canvas = denoiser()
    list(denoise_canvas(logits_of, canvas))
    assert guesses[0] is None
    assert guesses[1] is not None
    assert canvas.guess is None


def test_the_step_cap_does_not_change_the_temperatures_before_it(written_out: WriteOut) -> None:
    capped = denoiser(replace(SETTINGS, max_denoising_steps=3))
    flat = written_out(torch.zeros(LENGTH, VOCABULARY))
    temperatures = [s.temperature for s in denoise_canvas(lambda c, g: flat, capped)]
    assert temperatures == pytest.approx([0.8, 0.75, 0.7])


def test_temperature_zero_proposes_the_draft_and_leaves_acceptance_alone(
    written_out: WriteOut,
) -> None:
    logits = torch.randn(LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(2))
    usual, greedy = denoiser(), denoiser(replace(SETTINGS, temperature=0.0))
    first, second = (each.advance(each.step(written_out(logits))) for each in (usual, greedy))
    assert torch.equal(second.proposal, logits.argmax(-1))
    assert not torch.equal(first.proposal, second.proposal)
    assert torch.equal(first.accepted, second.accepted)
    assert torch.equal(first.entropy, second.entropy)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_logit_that_is_not_finite_is_an_error_and_never_a_token(
    poison: float, written_out: WriteOut
) -> None:
    logits = sure_of(ANSWER)
    logits[2, 7] = poison

    with pytest.raises(NonFiniteLogitsError, match="1 of 6 canvas positions, position 2 first"):
        list(denoise_canvas(lambda c, g: written_out(logits), denoiser()))


def test_closing_the_iterator_stops_the_work(written_out: WriteOut) -> None:
    calls = []

    def logits_of(canvas: Tensor, guess: Tensor | None) -> Logits:
        calls.append(canvas)
        return written_out(torch.zeros(LENGTH, VOCABULARY))

    steps = denoise_canvas(logits_of, denoiser())
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(calls) == 1


def test_never_runs_to_the_cap_even_when_sure(written_out: WriteOut) -> None:
    canvas = denoiser()
    canvas._stop = Never().start()
    sure = written_out(sure_of(ANSWER))
    assert len(list(denoise_canvas(lambda c, g: sure, canvas))) == 8
