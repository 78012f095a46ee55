"""The denoising of one canvas: noise in, settled tokens out.

canvas of random ids
  -> logits_of(canvas, guess) -> statistics -> proposals
  -> accepted positions keep their proposal, the others get new random ids
  -> guess = what these logits expect, fed into the next step
... until the stop rule or the step cap; the argmax of the last step is the result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dgemma_backend.diffusion.noise import CanvasNoise
from dgemma_backend.diffusion.sampler import Sampler, restricted_sample
from dgemma_backend.diffusion.schedule import LinearSchedule
from dgemma_backend.diffusion.stopping import StepStatistics, StopRule
from dgemma_backend.errors import NonFiniteLogitsError
from dgemma_kernels import Kernels

LogitsOf = Callable[[Tensor, Tensor | None], Tensor]
"""Canvas `(L,)` and the last guess -> fresh logits `(L, V)` float32, free to be overwritten."""

GuessOf = Callable[[Tensor, float, Tensor], Tensor]
"""Logits `(L, V)`, temperature, log-sum-exp `(L,)` -> the guess for the next step."""


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
    def plain_proposals(self) -> bool:
        """Whether proposals follow the schedule's own distribution."""
        return self.temperature == 1 and self.top_k is None and self.top_p is None


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


class CanvasDenoiser:
    """State of one canvas between steps; `advance` takes the logits of the next.

    It never calls the model itself, so a scheduler may gather the logits of many canvases in
    one pass.
    """

    def __init__(
        self,
        settings: DecodingSettings,
        sampler: Sampler,
        stop_rule: StopRule,
        noise: CanvasNoise,
        kernels: Kernels,
        guess_of: GuessOf,
        number: int = 0,
    ) -> None:
        self.settings = settings
        self.number = number
        self.canvas = noise.first
        self.guess: Tensor | None = None
        self.argmax = noise.first
        self.steps = 0
        self.stopped = False
        self._sampler = sampler
        self._stop = stop_rule.start()
        self._noise = noise
        self._kernels = kernels
        self._guess_of = guess_of

    @property
    def done(self) -> bool:
        """Whether the canvas is settled or out of steps."""
        return self.stopped or self.steps >= self.settings.max_denoising_steps

    def advance(self, logits: Tensor) -> DenoiseStep:
        """Take the logits `(L, V)` of `canvas` and `guess` one step further.

        Raises `NonFiniteLogitsError` when a row holds NaN or infinity.
        """
        step, settings = self.steps + 1, self.settings
        temperature = settings.schedule.temperature(step)
        draws = self._noise.step(step)
        rows = torch.full((logits.shape[0],), temperature, device=logits.device)
        found = self._kernels.vocabulary_statistics(logits, rows, draws.uniform)
        statistics = StepStatistics(step, found.argmax, found.entropy)
        stop = torch.as_tensor(self._stop.update(statistics), device=logits.device)
        stopped, finite = torch.stack((stop, found.finite.all())).tolist()  # the one wait
        if not finite:
            raise NonFiniteLogitsError(_describe_bad_rows(found.finite, self.number, step))
        proposal = self._propose(logits, temperature, found.sample, draws.uniform)
        accepted = self._sampler.accept(found.entropy)
        looked_at, self.canvas = self.canvas, torch.where(accepted, proposal, draws.renoise)
        self.argmax, self.steps, self.stopped = found.argmax, step, stopped
        self.guess = None if self.done else self._guess_of(logits, temperature, found.log_total)
        return DenoiseStep(
            canvas=self.number,
            step=step,
            max_steps=settings.max_denoising_steps,
            temperature=temperature,
            tokens=looked_at,
            argmax=found.argmax,
            proposal=proposal,
            accepted=accepted,
            entropy=found.entropy,
            stopped=stopped,
        )

    def _propose(
        self, logits: Tensor, temperature: float, plain: Tensor, uniform: Tensor
    ) -> Tensor:
        settings = self.settings
        if settings.plain_proposals:
            return plain
        scaled = temperature * settings.temperature
        return restricted_sample(logits, scaled, uniform, settings.top_k, settings.top_p)


def denoise_canvas(logits_of: LogitsOf, denoiser: CanvasDenoiser) -> Iterator[DenoiseStep]:
    """Run a canvas to its end, a step at a time. Closing the iterator stops the work."""
    while not denoiser.done:
        yield denoiser.advance(logits_of(denoiser.canvas, denoiser.guess))


def _describe_bad_rows(finite: Tensor, canvas: int, step: int) -> str:
    bad = (~finite).nonzero().flatten().tolist()
    return (
        f"The model returned NaN or infinite logits for {len(bad)} of {finite.numel()} canvas "
        f"positions, position {bad[0]} first, at step {step} of canvas {canvas}. Float16 "
        "overflows on this model: use bfloat16 or float32; else the weights may be damaged "
        "(a SHA256SUMS file in the model folder is checked when there is one)."
    )
