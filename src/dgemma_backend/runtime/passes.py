"""The network as the scheduler uses it: a pass for several requests at a time.

On CUDA their rows go through the network together, since a pass reads every expert whether it has
one canvas or sixteen. On CPU a pass is bound by arithmetic, so each request gets its own, and its
result does not depend on company, bit for bit.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_backend.diffusion import CanvasDenoiser, DenoiseStep
from dgemma_backend.diffusion.denoise import StepTensors
from dgemma_backend.errors import DgemmaError
from dgemma_backend.events import Draft
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.model.cache import KVCache
from dgemma_backend.model.canvas_logits import CanvasLogits
from dgemma_backend.model.diffusion_gemma import Context
from dgemma_backend.runtime.captured_step import CapturedSteps, split_pass
from dgemma_backend.runtime.job import Job
from dgemma_backend.runtime.prefix_store import PrefixStore
from dgemma_kernels import Draws

PREFILL_PIECE = 512
"""Prompt tokens of a request encoded in one pass: bounds the attention mask and the wait."""


class TorchPasses:
    """Runs passes of one model; used by one thread at a time."""

    def __init__(
        self,
        model: DiffusionGemma,
        new_denoiser: Callable[[Job], CanvasDenoiser],
        draft_of: Callable[[DenoiseStep], Draft],
        on_step: Callable[[DenoiseStep], None],
        again: Callable[[Job, list[int]], bool],
        together: bool | None = None,
        prefix_bytes: int = 0,
    ) -> None:
        """`again`: whether a settled canvas is thrown away and denoised from other noise.
        `together`: whether rows share passes; None: on CUDA they do, on CPU not.
        `prefix_bytes`: memory for the prefixes of earlier requests.
        """
        self._model = model
        self._new_denoiser = new_denoiser
        self._draft_of = draft_of
        self._on_step = on_step
        self._again = again
        self._prefixes = PrefixStore(prefix_bytes)
        on_cuda = model.device.type == "cuda"
        self._together = on_cuda if together is None else together
        self._captured = CapturedSteps(model) if on_cuda else None

    def cache_bytes(self, tokens: int) -> int:
        """Memory that the cache of a request of `tokens` positions comes to take."""
        width = 2 * self._model.embed_tokens.weight.element_size()  # keys and values
        return sum(width * each * min(tokens, most) for each, most in _layers(self._model.config))

    def leave(self, job: Job) -> None:
        """Keep what an ended job has encoded for those who continue its conversation."""
        if job.cache is not None:
            self._keep(job, job.cache.length)

    def free(self) -> None:
        """Drop the kept prefixes, and let CUDA's allocator give back what it keeps for later."""
        self._prefixes.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def encode(self, jobs: Sequence[Job]) -> None:
        """Encode the next piece of each job; what is known of its prompt is not encoded again."""
        begun = time.perf_counter()
        for job in jobs:
            if job.cache is None:
                self._open_cache(job)
        for group in filter(None, self._groups([job for job in jobs if job.to_encode])):
            pieces = [torch.tensor(job.to_encode[: _piece(job)]) for job in group]
            rows = [piece.to(self._model.device) for piece in pieces]
            self._model.encode(rows, [job.cache for job in group])
            for job, piece in zip(group, pieces, strict=True):
                job.encoded(piece.numel())
                if job.cache.length in (job.part_at, len(job.request.prompt_ids)):
                    self._keep(job, job.cache.length)
        spent = (time.perf_counter() - begun) / len(jobs)
        for job in jobs:
            if job.number == 0:
                job.prefill_seconds += spent

    def _open_cache(self, job: Job) -> None:
        """A fork of the longest prefix that is known, else an empty cache."""
        request = job.request
        if request.settings.isolate:  # pieces cut elsewhere would differ in their last bits
            job.cache = self._model.new_cache(job.tokens)
            return
        found = self._prefixes.longest(request.settings.cache_salt, job.to_encode)
        job.part_at = found.common
        if isinstance(found.cache, KVCache):
            job.cache = found.cache.fork(found.usable, job.tokens)
            job.cached_tokens = min(found.usable, len(request.prompt_ids))
            job.encoded(found.usable)
        else:
            job.cache = self._model.new_cache(job.tokens)

    def _keep(self, job: Job, length: int) -> None:
        if self._prefixes.budget and length:
            self._prefixes.keep(job.request.settings.cache_salt, job.token_ids[:length], job.cache)

    @torch.inference_mode()
    def denoise(self, jobs: Sequence[Job]) -> None:
        """Take the next denoising step of each job."""
        for job in jobs:
            if job.denoiser is None:
                job.denoiser = self._new_denoiser(job)
                job.context = None
        for group in filter(None, self._groups(jobs)):
            for job, (taken, logits) in zip(group, self._step(group), strict=True):
                self._advance(job, taken, logits)

    def _groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """What goes through the network together."""
        if not self._together:
            return [[job] for job in jobs]
        alone = [job for job in jobs if job.request.settings.isolate]
        return [[job for job in jobs if job not in alone], *([job] for job in alone)]

    def _step(self, jobs: list[Job]) -> list[tuple[StepTensors, CanvasLogits]]:
        """What the next step makes of each canvas, and its logits, good until the next step."""
        denoisers = [job.denoiser for job in jobs if job.denoiser is not None]
        context = self._context(jobs)
        captured = self._captured and self._captured.step(denoisers, context)
        if captured:
            return captured
        canvas = torch.stack([each.canvas for each in denoisers])
        logits = self._model.denoise(canvas, _stacked([each.guess for each in denoisers]), context)
        draws = Draws(*map(torch.cat, zip(*(each.draws() for each in denoisers), strict=True)))
        wanted = not all(each.last_step for each in denoisers)
        found = split_pass(logits.vocabulary_pass(draws, guess=wanted), canvas.shape[1])
        rows = [logits[row] for row in range(len(denoisers))]
        taken = [each.take(found[row], rows[row]) for row, each in enumerate(denoisers)]
        return list(zip(taken, rows, strict=True))

    def _context(self, jobs: list[Job]) -> Context:
        """Made once for as long as the same canvases stay together."""
        canvases = tuple((job, job.number) for job in jobs)  # jobs, as an id may come again
        if jobs[0].context is None or jobs[0].context[0] != canvases:
            made = self._model.canvas_context([job.cache for job in jobs])
            for job in jobs:
                job.context = canvases, made
        context: Context = jobs[0].context[1]
        return context

    def _advance(self, job: Job, taken: StepTensors, logits: CanvasLogits) -> None:
        denoiser = job.denoiser
        if denoiser is None:
            return
        try:
            step = denoiser.advance(taken)
            self._on_step(step)
            if job.drafts:
                job.outbox.put(self._draft_of(step))
            if job.request.sequences:
                job.settle([], True, sequence_scores(logits, job.request.sequences))
            elif denoiser.done:
                self._commit(job, denoiser, logits)
        except DgemmaError as error:  # this row's alone: the others go on
            job.end(error.with_traceback(None))  # whose frames would keep the logits

    def _commit(self, job: Job, denoiser: CanvasDenoiser, logits: CanvasLogits) -> None:
        ids = denoiser.committed(logits)
        if self._again(job, ids):
            job.reroll()
        else:
            job.settle(ids, denoiser.stopped)


def sequence_scores(logits: CanvasLogits, sequences: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Log probability of each sequence of ids at the canvas' first positions, taken one by one.

    Under softmax of the logits themselves, whatever the schedule's temperature.
    """
    first = logits[: max(map(len, sequences))]
    log_shares = first.dense().log_softmax(dim=-1)
    return tuple(
        float(log_shares[torch.arange(len(each)), torch.tensor(each)].sum()) for each in sequences
    )


def _piece(job: Job) -> int:
    """Tokens to encode next: up to where requests part from what is known, and not too many."""
    before = job.part_at - job.cache.length
    return min(PREFILL_PIECE, before) if before > 0 else PREFILL_PIECE


def _stacked(guesses: list[Tensor | None]) -> Tensor | None:
    """No guess yet counts as zeros."""
    like = next((each for each in guesses if each is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if each is None else each for each in guesses])


def _layers(config: ModelConfig) -> list[tuple[int, int]]:
    """Per layer: numbers kept for a position, and positions kept at the most."""
    sliding = config.num_key_value_heads * config.head_dim, 2 * config.sliding_window
    full = (
        config.num_global_key_value_heads * config.global_head_dim,
        config.max_position_embeddings,
    )
    return [sliding if kind == "sliding_attention" else full for kind in config.layer_types]
