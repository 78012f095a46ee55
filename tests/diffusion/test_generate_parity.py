"""Step by step the same as transformers' `generate`, given the same random draws."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

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

MODELS = 32
CANVASES = 3
PAD, STOPS = 0, [1, 6]


@pytest.fixture(scope="module", autouse=True)
def quiet_compiler_import() -> None:
    """`generate` calls this first; it imports torch's compiler, whose own imports warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compiler.cudagraph_mark_step_begin()


class Step(NamedTuple):
    canvas: int
    proposal: list[int]
    accepted: list[bool]
    argmax: list[int]


class TheirDraws:
    """Feeds our proposals and renoise draws to transformers' `generate` and writes down what
    each step did. (A proposal lies on an edge of the cumulative sum now and then, where the last
    bit of a logit decides; so proposals are handed over, not drawn again.)"""

    def __init__(self, noises: list[CanvasNoise], ours: list[Step]) -> None:
        self.noises = noises
        self.ours = ours
        self.canvas, self.step = -1, 0
        self.steps: list[Step] = []

    def initialize_canvas(self, sampler: Any, batch_size: int, device: Any) -> torch.Tensor:
        if sampler.accepted_token_mask is None or self.starting:
            self.canvas, self.step, self.starting = self.canvas + 1, 0, False
            return self.noises[self.canvas].first.unsqueeze(0)
        return self.noises[self.canvas].step(self.step).renoise.unsqueeze(0)

    starting = True

    def multinomial(self, probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == 1
        self.step += 1
        return torch.tensor(self.ours[len(self.steps)].proposal).unsqueeze(-1)

    def record(self, sampler: Any, proposal: torch.Tensor, logits: torch.Tensor) -> None:
        self.steps.append(
            Step(
                self.canvas,
                proposal[0].tolist(),
                sampler.accepted_token_mask[0].tolist(),
                logits[0].argmax(-1).tolist(),
            )
        )


@contextmanager
def injected(draws: TheirDraws) -> Iterator[None]:
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as theirs

    accept = theirs.EntropyBoundSampler.accept_canvas
    finalize = theirs.DiffusionGemmaGenerationMixin._finalize_canvas

    def accept_canvas(sampler: Any, current: Any, proposal: Any, logits: Any, step: Any) -> Any:
        kept = accept(sampler, current, proposal, logits, step)
        draws.record(sampler, proposal, logits)
        return kept

    def finalize_canvas(**given: Any) -> Any:
        draws.starting = True
        return finalize(**given)

    with (
        patch.object(torch, "multinomial", draws.multinomial),
        patch.object(
            theirs.EntropyBoundSampler,
            "initialize_canvas",
            lambda sampler, batch_size, device: draws.initialize_canvas(
                sampler, batch_size, device
            ),
        ),
        patch.object(theirs.EntropyBoundSampler, "accept_canvas", accept_canvas),
        patch.object(
            theirs.DiffusionGemmaGenerationMixin, "_finalize_canvas", staticmethod(finalize_canvas)
        ),
    ):
        yield


def random_decoding(rng: random.Random) -> DecodingSettings:
    """Bounds and thresholds such that canvases of an untrained model stop early or late."""
    steps = rng.randint(3, 14)
    return DecodingSettings(
        max_denoising_steps=steps,
        schedule_steps=steps,
        t_min=0.4,
        t_max=rng.choice([0.6, 0.8]),
        entropy_bound=rng.choice([0.1, 3.0, 30.0]),
        confidence_threshold=rng.choice([0.005, 2.0, 6.0]),
        stability_threshold=rng.choice([1, 2]),
    )


def our_steps(
    model: Any, prompt: torch.Tensor, settings: DecodingSettings, noises: list[CanvasNoise]
) -> tuple[list[Step], list[list[int]]]:
    cache = model.new_cache()
    model.encode([prompt], [cache])
    steps, canvases = [], []
    for number, noise in enumerate(noises):
        denoiser = CanvasDenoiser(
            settings,
            EntropyBoundSampler(settings),
            StableAndConfident(settings),
            noise,
            number,
        )

        context = model.canvas_context([cache])

        def logits_of(
            canvas: torch.Tensor, guess: torch.Tensor | None, context: Any = context
        ) -> Any:
            soft = None if guess is None else guess[None]
            return model.denoise(canvas[None], soft, context)[0]

        for step in denoise_canvas(logits_of, denoiser):
            accepted = step.accepted.tolist()
            steps.append(Step(number, step.proposal.tolist(), accepted, step.argmax.tolist()))
        canvases.append(denoiser.argmax.tolist())
        if set(canvases[-1]) & set(STOPS):
            break
        model.encode([denoiser.argmax], [cache])
    return steps, canvases


def padded_after_stop(canvas: list[int]) -> list[int]:
    """transformers fills what lies behind the first stop id with padding."""
    ends = [at for at, token in enumerate(canvas) if token in STOPS]
    return canvas if not ends else canvas[: ends[0] + 1] + [PAD] * (len(canvas) - ends[0] - 1)


@pytest.mark.parametrize("seed", range(MODELS))
@torch.no_grad()
def test_canvases_masks_steps_and_output_equal_transformers_generate(
    seed: int, toy_facts: Callable[..., Any], model_pair: Callable[..., Any]
) -> None:
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        DiffusionGemmaGenerationConfig,
        EntropyBoundSamplerConfig,
    )

    rng = random.Random(seed)
    length, vocabulary = rng.choice([1, 2, 4, 8]), rng.choice([12, 60, 200])
    facts = toy_facts(length, vocab_size=vocabulary, sliding_window=rng.choice([3, 8, 64]))
    ours, theirs = model_pair(facts, seed)
    sharper = rng.choice([0.5, 0.8, 1.0])  # sharper ones double a rounding error every step
    for weight in (ours.norm.weight, theirs.model.decoder.norm.weight):
        weight.mul_(sharper)
    settings = random_decoding(rng)
    steps = settings.max_denoising_steps
    noises = [
        CanvasNoise(seed, c, steps, length, vocabulary, torch.device("cpu"))
        for c in range(CANVASES)
    ]
    prompt = torch.randint(
        vocabulary, (rng.randint(1, 20),), generator=torch.Generator().manual_seed(seed)
    )
    mine, canvases = our_steps(ours, prompt, settings, noises)
    draws = TheirDraws(noises, mine)
    config = DiffusionGemmaGenerationConfig(
        max_new_tokens=CANVASES * length,
        max_denoising_steps=steps,
        sampler_config=EntropyBoundSamplerConfig(settings.entropy_bound),
        t_min=settings.t_min,
        t_max=settings.t_max,
        stability_threshold=settings.stability_threshold,
        confidence_threshold=settings.confidence_threshold,
        eos_token_id=STOPS,
        pad_token_id=PAD,
    )
    with injected(draws):
        output = theirs.generate(prompt[None], generation_config=config)
    assert mine == draws.steps
    expected = [token for canvas in canvases for token in padded_after_stop(canvas)]
    assert output.sequences[0, len(prompt) :].tolist() == expected


@torch.no_grad()
def test_the_drawn_models_stop_early_and_late_and_accept_some_and_all(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    """The comparison above is worth something only if its cases differ."""
    lengths, accepted = set(), set()
    for seed in range(MODELS):
        rng = random.Random(seed)
        length, vocabulary = rng.choice([1, 2, 4, 8]), rng.choice([12, 60, 200])
        facts = toy_facts(length, vocab_size=vocabulary, sliding_window=rng.choice([3, 8, 64]))
        model = random_model(facts, seed)
        model.norm.weight.mul_(rng.choice([0.5, 0.8, 1.0]))
        settings = random_decoding(rng)
        cap = settings.max_denoising_steps
        noise = CanvasNoise(seed, 0, cap, length, vocabulary, torch.device("cpu"))
        steps, _ = our_steps(model, torch.tensor([3, 2, 7]), settings, [noise])
        lengths.add(len(steps) == cap)
        accepted |= {sum(step.accepted) / length for step in steps}
    assert lengths == {True, False}
    assert min(accepted) < 0.5
    assert max(accepted) == 1.0
