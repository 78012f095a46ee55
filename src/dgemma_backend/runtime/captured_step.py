"""A denoising step of a batch as one CUDA graph: recorded once, then replayed.

Launching a step operation by operation costs the host more time than the device needs to run it.
A graph repeats the same launches on the same addresses, so everything that differs between
canvases lives in tensors with a fixed place: `load` fills them, `replay` runs the step on them.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from dgemma_backend.diffusion.denoise import CanvasDenoiser, StepTensors, settle
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.model.canvas_logits import CanvasLogits
from dgemma_backend.model.diffusion_gemma import Context
from dgemma_kernels import Draws, VocabularyPass

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records a function's launches; what it returns repeats them."""

_SMALLEST_PREFIX = 1024  # tokens; prefixes up to the same power of two share a graph
_FEWEST_STEPS = 64
_KEPT = 8


class CapturedStep:
    """One graph: `len(denoisers)` canvases of the same length, and a sampler."""

    def __init__(
        self,
        model: DiffusionGemma,
        denoisers: Sequence[CanvasDenoiser],
        context: Context,
        steps: int,
        capture: Capture,
    ) -> None:
        """`steps` is the most that a canvas may take; `denoisers` and `context` are copied from."""
        self._model = model
        self._context = context.copy()
        self._sampler, self._barred = denoisers[0].sampler, denoisers[0].barred
        count, length = len(denoisers), denoisers[0].canvas.shape[0]
        self._shape = count, length
        hidden, place = model.config.hidden_size, model.device
        dtype = model.embed_tokens.weight.dtype
        self._canvas = torch.zeros(count, length, dtype=torch.int64, device=place)
        self._guess = torch.zeros(count, length, hidden, dtype=dtype, device=place)
        self._step = torch.ones(count, dtype=torch.int64, device=place)
        draws = (count, steps + 1, length)
        self._uniform = torch.full(draws, 0.5, dtype=torch.float64, device=place)
        self._renoise = torch.zeros(draws, dtype=torch.int64, device=place)
        self._temperature = torch.ones(count, steps + 1, device=place)
        self._proposal = torch.ones(count, device=place)
        self._taken: list[StepTensors] = []
        self._logits: CanvasLogits
        self._holds: list[tuple[CanvasDenoiser, int]] = []
        self.load(denoisers, context)  # also makes the tables that must exist before recording
        self._replay = capture(self._run)
        self._holds = []  # recording took steps

    def load(self, denoisers: Sequence[CanvasDenoiser], context: Context) -> None:
        """Make these canvases, as far as they have come, the ones to work on.

        Nothing is copied for canvases that this graph took the last step of.
        """
        holds = [(denoiser, denoiser.steps) for denoiser in denoisers]
        if holds == self._holds:
            return
        self._context.load(context)
        for row, denoiser in enumerate(denoisers):
            settings, noise = denoiser.settings, denoiser.noise.all_steps()
            steps = noise.uniform.shape[0]
            self._step[row].fill_(denoiser.steps + 1)
            self._canvas[row].copy_(denoiser.canvas)
            self._uniform[row, :steps].copy_(noise.uniform)
            self._renoise[row, :steps].copy_(noise.renoise)
            self._proposal[row].fill_(settings.temperature)
            curve = [settings.schedule.temperature(step) for step in range(steps)]
            self._temperature[row, :steps].copy_(torch.tensor(curve))
            if denoiser.guess is None:
                self._guess[row].zero_()  # no guess yet counts as zeros
            else:
                self._guess[row].copy_(denoiser.guess)
        self._holds = holds

    def replay(self) -> list[tuple[StepTensors, CanvasLogits]]:
        """The next step of every canvas, and its logits.

        The results are copies; the logits lie in the graph's memory and are good until the next
        replay.
        """
        self._replay()
        self._holds = [(denoiser, steps + 1) for denoiser, steps in self._holds]
        return [(_copied(taken), self._logits[row]) for row, taken in enumerate(self._taken)]

    def _run(self) -> None:
        count, length = self._shape
        rows = torch.arange(count, device=self._canvas.device)
        uniform = self._uniform[rows, self._step]
        renoise = self._renoise[rows, self._step]
        temperature = self._temperature[rows, self._step]
        draws = Draws(
            _per_position(temperature, length),
            _per_position(self._proposal, length),
            uniform.flatten(),
        )
        logits = self._logits = self._model.denoise(self._canvas, self._guess, self._context)
        found = logits.vocabulary_pass(draws, guess=True)
        self._taken = [
            settle(part, part.sample, renoise[row], self._sampler, self._barred)
            for row, part in enumerate(split_pass(found, length))
        ]
        for row, taken in enumerate(self._taken):
            self._canvas[row].copy_(taken.canvas)
        if found.guess is not None:
            self._guess.copy_(found.guess.view_as(self._guess))
        self._step.add_(1)


class CapturedSteps:
    """The graphs of one model, the most recently used ones kept."""

    def __init__(self, model: DiffusionGemma, capture: Capture | None = None) -> None:
        self._model = model
        self._capture = capture or _capture_cuda
        self._kept: OrderedDict[Hashable, CapturedStep] = OrderedDict()
        self._works = True

    def step(
        self, denoisers: Sequence[CanvasDenoiser], context: Context
    ) -> list[tuple[StepTensors, CanvasLogits]] | None:
        """The next step of these canvases, of equal length each.

        None where it cannot be captured: a sampler without `capture_key`, samplers that differ,
        a guide that steers, proposals restricted by `top_k` or `top_p`, or a device that could
        not record it.
        """
        key = _key(denoisers, context)
        if key is None or not self._works:
            return None
        if key not in self._kept:
            recorded = self._record(denoisers, context)
            if recorded is None:
                return None
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            self._kept[key] = recorded
        self._kept.move_to_end(key)
        self._kept[key].load(denoisers, context)
        return self._kept[key].replay()

    def _record(self, denoisers: Sequence[CanvasDenoiser], context: Context) -> CapturedStep | None:
        steps = _step_bucket(denoisers)
        try:
            return CapturedStep(self._model, denoisers, context, steps, self._capture)
        except RuntimeError as error:
            self._works = False
            warnings.warn(
                f"A denoising step could not be recorded as a CUDA graph: {error} Steps are "
                "launched one operation at a time instead, which is slower and right.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None


def _key(denoisers: Sequence[CanvasDenoiser], context: Context) -> Hashable | None:
    samplers = {getattr(each.sampler, "capture_key", None) for each in denoisers}
    lengths = {each.canvas.shape[0] for each in denoisers}
    barred = {id(each.barred) for each in denoisers}  # one table for a model's whole life
    restricted = any(
        each.settings.restricted or (each.guide is not None and each.guide.steers)
        for each in denoisers
    )
    mixed = len(samplers) > 1 or len(lengths) > 1 or len(barred) > 1
    if mixed or None in samplers or restricted:
        return None
    prefix = _bucket(context.longest_prefix, _SMALLEST_PREFIX)
    return len(denoisers), *lengths, *samplers, *barred, _step_bucket(denoisers), prefix


def _step_bucket(denoisers: Sequence[CanvasDenoiser]) -> int:
    most = max(each.settings.max_denoising_steps for each in denoisers)
    return _bucket(most, _FEWEST_STEPS)


def _capture_cuda(run: Callable[[], None]) -> Callable[[], None]:
    """Run on a side stream until everything is compiled and allocated, then record."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


def _bucket(value: int, smallest: int) -> int:
    """The next power of two, at least `smallest`."""
    return max(smallest, 1 << (value - 1).bit_length())


def _copied(taken: StepTensors) -> StepTensors:
    return StepTensors(
        argmax=taken.argmax.clone(),
        proposal=taken.proposal.clone(),
        accepted=taken.accepted.clone(),
        entropy=taken.entropy.clone(),
        finite=taken.finite.clone(),
        canvas=taken.canvas.clone(),
        guess=None if taken.guess is None else taken.guess.clone(),
    )


def _per_position(values: Tensor, length: int) -> Tensor:
    return values.unsqueeze(1).expand(-1, length).reshape(-1)


def split_pass(found: VocabularyPass, length: int) -> list[VocabularyPass]:
    """One pass for each canvas of `length` positions."""
    parts = [
        [None] * (found.argmax.shape[0] // length) if x is None else x.split(length) for x in found
    ]
    return [VocabularyPass(*each) for each in zip(*parts, strict=True)]
