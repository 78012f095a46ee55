"""The denoising of one canvas: noise in, settled tokens out.

canvas of random ids
  -> logits_of(canvas, guess) -> statistics -> proposals
  -> accepted positions keep their proposal, the others get new random ids
  -> guess = what these logits expect, fed into the next step
... until the stop rule or the step cap; the argmax of the last step is the result.

A step has two halves. `CanvasDenoiser.step` is a pure function of tensors and never waits for
the device, so it may be captured as one graph; `advance` takes its result, asks the stop rule
and waits once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dgemma_backend.diffusion.noise import CanvasNoise
from dgemma_backend.diffusion.readback import read_back
from dgemma_backend.diffusion.sampler import Sampler, restricted_sample
from dgemma_backend.diffusion.schedule import LinearSchedule
from dgemma_backend.diffusion.stopping import StepStatistics, StopRule
from dgemma_backend.errors import NonFiniteLogitsError
from dgemma_kernels import Draws, VocabularyPass


class Logits(Protocol):
    """What is known of a canvas' `L` positions; written out only where somebody asks for it."""

    def vocabulary_pass(self, draws: Draws, *, guess: bool) -> VocabularyPass:
        """Statistics of every position, and with `guess` the next step's self-conditioning."""

    def dense(self) -> Tensor:
        """`(L, V)` float32, a fresh tensor."""


class Guided(Protocol):
    """What a guide makes of a step, each `(L,)` on the logits' device."""

    draft: Tensor  # int64 ids: what would be committed now
    proposal: Tensor  # int64 ids
    entropy: Tensor  # float32 nats, by which the sampler accepts
    doubt: Tensor  # float32 nats, by which the stop rule judges


class Guide(Protocol):
    """Keeps a canvas to a form. It decides what is committed and may take part in every step."""

    steers: bool
    """Whether it takes part in steps; if not, only `commit` is called."""

    def step(self, logits: Any, found: VocabularyPass, draws: Draws, inner: Tensor) -> Guided:
        """Proposals of the form; `inner (L,)` are uniform numbers besides those of `draws`."""

    def commit(self, logits: Any) -> list[int]:
        """The likeliest ids of the form under the last step's logits."""


LogitsOf = Callable[[Tensor, Tensor | None], Logits]
"""Canvas `(L,)` and the last guess -> what the model says of it."""


@dataclass(frozen=True)
class DecodingSettings:
    """How canvases are denoised: a checkpoint's defaults with a request's changes.

    `schedule_steps` is the checkpoint's own cap, over which the temperature falls;
    `max_denoising_steps` is where this request stops at the latest. `temperature` scales the
    noise of the proposals only; entropies, acceptance and stopping follow the schedule.
    """

    max_denoising_steps: int
    schedule_steps: int
    t_min: float
    t_max: float
    entropy_bound: float
    confidence_threshold: float
    stability_threshold: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    @property
    def schedule(self) -> LinearSchedule:
        """The temperature curve."""
        return LinearSchedule(self.t_min, self.t_max, self.schedule_steps)

    @property
    def restricted(self) -> bool:
        """Whether proposals come from the likeliest tokens only, which takes written-out logits."""
        return self.top_k is not None or self.top_p is not None


@dataclass(frozen=True)
class DenoiseStep:
    """What one step did. Tensors stay on the device; reading one waits for it."""

    canvas: int  # number of the canvas in its request, from 0
    step: int  # from 1
    max_steps: int
    temperature: float
    tokens: Tensor  # (L,) ids the step looked at
    argmax: Tensor  # (L,) ids: the draft
    proposal: Tensor  # (L,) ids
    accepted: Tensor  # (L,) bool
    entropy: Tensor  # (L,) nats
    stopped: bool  # the stop rule was satisfied


class StepTensors(NamedTuple):
    """One step's results, all on the device, each `(L,)` but for the guess."""

    argmax: Tensor  # ids: the draft
    proposal: Tensor  # ids
    accepted: Tensor  # bool
    entropy: Tensor  # nats
    finite: Tensor  # bool: no NaN or infinity among the position's logits
    canvas: Tensor  # ids: what the next step looks at
    guess: Tensor | None


def settle(
    found: VocabularyPass,
    proposal: Tensor,
    renoise: Tensor,
    sampler: Sampler,
    barred: Tensor | None = None,
    acceptance: Tensor | None = None,
) -> StepTensors:
    """Acceptance and renoise of one canvas after its vocabulary pass; waits for nothing.

    The sampler goes by `acceptance (L,)` in nats, by default the entropies found. A proposal that
    is `barred (V,)` is not accepted, whatever the sampler says.
    """
    accepted = sampler.accept(found.entropy if acceptance is None else acceptance)
    if barred is not None:
        accepted = accepted & ~barred[proposal]
    return StepTensors(
        argmax=found.argmax,
        proposal=proposal,
        accepted=accepted,
        entropy=found.entropy,
        finite=found.finite,
        canvas=torch.where(accepted, proposal, renoise),
        guess=found.guess,
    )


class CanvasDenoiser:
    """State of one canvas between steps.

    It never calls the model itself, so a scheduler may gather the logits of many canvases in
    one pass.
    """

    def __init__(
        self,
        settings: DecodingSettings,
        sampler: Sampler,
        stop_rule: StopRule,
        noise: CanvasNoise,
        number: int = 0,
        guide: Guide | None = None,
        barred: Tensor | None = None,
    ) -> None:
        """`barred (V,)`, bool: ids that are never accepted nor committed."""
        self.barred = barred
        self.guide = guide
        self.settings = settings
        self.sampler = sampler
        self.number = number
        self.noise = noise
        self.canvas = noise.first
        self.guess: Tensor | None = None
        self.argmax = noise.first
        self.steps = 0
        self.stopped = False
        self._stop = stop_rule.start()

    @property
    def done(self) -> bool:
        """Whether the canvas is settled or out of steps."""
        return self.stopped or self.steps >= self.settings.max_denoising_steps

    @property
    def last_step(self) -> bool:
        """Whether the step cap allows just one more, whose guess nobody would read."""
        return self.steps + 1 >= self.settings.max_denoising_steps

    def draws(self) -> Draws:
        """Temperatures and random numbers of the step to come, one row a position."""
        step = self.steps + 1
        uniform = self.noise.step(step).uniform

        def filled(value: float) -> Tensor:
            return torch.full(uniform.shape, value, dtype=torch.float32, device=uniform.device)

        temperature = self.settings.schedule.temperature(step)
        return Draws(filled(temperature), filled(self.settings.temperature), uniform)

    def step(self, logits: Logits) -> StepTensors:
        """What the logits of `canvas` and `guess` make of the canvas; changes nothing yet."""
        return self.take(logits.vocabulary_pass(self.draws(), guess=not self.last_step), logits)

    def take(self, found: VocabularyPass, logits: Logits) -> StepTensors:
        """`step` after its vocabulary pass, which may have been one for many canvases."""
        settings, proposal = self.settings, found.sample
        noise = self.noise.step(self.steps + 1)
        if self.guide is not None and self.guide.steers:
            guided = self.guide.step(logits, found, self.draws(), noise.inner)
            found = found._replace(argmax=guided.draft, entropy=guided.doubt)
            settled = guided.proposal, noise.renoise, self.sampler, self.barred, guided.entropy
            return settle(found, *settled)
        if settings.restricted:
            dense = logits.dense()
            proposal = restricted_sample(dense, self.draws(), settings.top_k, settings.top_p)
        return settle(found, proposal, noise.renoise, self.sampler, self.barred)

    def advance(self, taken: StepTensors) -> DenoiseStep:
        """Go one step further.

        Raises `NonFiniteLogitsError` when a row held NaN or infinity; the canvas stays as it was.
        """
        number = self.steps + 1
        statistics = StepStatistics(number, taken.argmax, taken.entropy)
        stop = torch.as_tensor(self._stop.update(statistics), device=taken.argmax.device)
        stopped, finite = read_back(torch.stack((stop, taken.finite.all())))  # the one wait
        if not finite:
            raise NonFiniteLogitsError(_describe_bad_rows(taken.finite, self.number, number))
        looked_at, self.canvas, self.argmax = self.canvas, taken.canvas, taken.argmax
        self.steps, self.stopped = number, stopped
        self.guess = None if self.done else taken.guess
        return DenoiseStep(
            canvas=self.number,
            step=number,
            max_steps=self.settings.max_denoising_steps,
            temperature=self.settings.schedule.temperature(number),
            tokens=looked_at,
            argmax=taken.argmax,
            proposal=taken.proposal,
            accepted=taken.accepted,
            entropy=taken.entropy,
            stopped=stopped,
        )

    def committed(self, logits: Any) -> list[int]:
        """The ids of the settled canvas; `logits` are those of its last step."""
        if self.guide is not None:
            return self.guide.commit(logits)
        ids = self.argmax
        if self.barred is not None and bool((wrong := self.barred[ids]).any()):
            usable = logits[wrong].dense().masked_fill_(self.barred, -torch.inf)
            ids = ids.masked_scatter(wrong, usable.argmax(dim=-1))
        found: list[int] = ids.tolist()
        return found


def denoise_canvas(logits_of: LogitsOf, denoiser: CanvasDenoiser) -> Iterator[DenoiseStep]:
    """Run a canvas to its end, a step at a time. Closing the iterator stops the work."""
    while not denoiser.done:
        yield denoiser.advance(denoiser.step(logits_of(denoiser.canvas, denoiser.guess)))


def _describe_bad_rows(finite: Tensor, canvas: int, step: int) -> str:
    bad = (~finite).nonzero().flatten().tolist()
    return (
        f"The model returned NaN or infinite logits for {len(bad)} of {finite.numel()} canvas "
        f"positions, position {bad[0]} first, at step {step} of canvas {canvas}. Float16 "
        "overflows on this model: use bfloat16 or float32; else the weights may be damaged "
        "(a SHA256SUMS file in the model folder is checked when there is one)."
    )
