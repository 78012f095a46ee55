"""The engine that runs a checkpoint in this process, on CPU or CUDA."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.template_file import template_warning
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.config import DecodingDefaults, ModelConfig
from dgemma_backend.diffusion import CanvasDenoiser, CanvasNoise, DecodingSettings, DenoiseStep
from dgemma_backend.errors import CheckpointError
from dgemma_backend.events import Draft
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.answering import Check
from dgemma_backend.runtime.devices import (
    choose_device,
    choose_dtype,
    choose_kernels,
    settled_limits,
)
from dgemma_backend.runtime.engine import Engine, EngineInfo
from dgemma_backend.runtime.guidance import Form, Guidance, schema_faults
from dgemma_backend.runtime.job import Job
from dgemma_backend.runtime.job_feed import JobFeed
from dgemma_backend.runtime.passes import TorchPasses
from dgemma_backend.runtime.request import Request
from dgemma_backend.runtime.scheduler import Limits, Scheduler
from dgemma_backend.runtime.worker import Worker
from dgemma_backend.settings import GenerationSettings
from dgemma_backend.weights.checkpoint import load_into
from dgemma_backend.weights.formats import QuantizationFormat
from dgemma_backend.weights.placing import memory_of, stored_matrices
from dgemma_backend.weights.sources import resolve
from dgemma_kernels import Kernels

REROLL = 1 << 31
ATTEMPT = 1 << 28
"""What is added to a canvas' number to denoise it again from other noise."""


class TorchEngine(Engine):
    """One model on one device, owned by one thread; callers only wait for what it sends them."""

    def __init__(
        self,
        model: str | Path,
        *,
        plugins: Plugins,
        quantization: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        kernels: str = "auto",
        protocol: str = "gemma4",
        limits: Limits | None = None,
        together: bool | None = None,
    ) -> None:
        """Load `model`. Raises as `open_engine` does; a failed load leaves nothing behind.

        `limits` bounds the requests at work and in line; `together` says whether requests share
        passes (None: on CUDA they do, on CPU each has its own).
        """
        place = choose_device(device)
        precision = choose_dtype(dtype, place)
        format = None if quantization is None else plugins.quantization(quantization)()
        table = choose_kernels(kernels, plugins, place, precision)
        folder = resolve(model)
        config = ModelConfig.from_folder(folder)
        defaults = DecodingDefaults.from_folder(folder)
        chat: Gemma4Protocol = plugins.chat_protocol(protocol)(tokenizer_of(folder, config))
        self._model = load_model(config, table, folder, precision, place, format)
        held = list(stored_matrices(self._model))
        self._guidance = Guidance(chat, config.vocab_size, place)
        self._barred = torch.zeros(config.vocab_size, dtype=torch.bool, device=place)
        self._barred[torch.tensor(chat.unusable_ids(), device=place)] = True
        self._barred[chat.tokenizer.vocab_size :] = True  # rows that no token has
        info = EngineInfo(
            engine="torch",
            model=str(model),
            folder=str(folder),
            device=str(place),
            dtype=str(precision).removeprefix("torch."),
            kernels=table.name,
            quantization=config.quantization.format if config.quantization else quantization,
            canvas_length=config.canvas_length,
            context_length=config.max_position_embeddings,
            vocabulary=config.vocab_size,
            parameters=sum(matrix.shape.numel() for _, matrix in held),
            weight_bytes=sum(memory_of(matrix) for _, matrix in held),
        )
        limits = settled_limits(limits or Limits(), place)
        passes = TorchPasses(
            self._model,
            self._new_denoiser,
            self._draft,
            self._observe,
            self._says_nothing,
            together=together,
            prefix_bytes=limits.prefix_bytes or 0,
        )
        self._worker = Worker(Scheduler(passes, limits), repr(str(model)))
        super().__init__(info, chat, defaults, plugins)

    def _shut(self) -> None:
        self._worker.close()
        self.__dict__.pop("_model", None)

    def _constraint(self, request: Request) -> Form | None:
        in_thought = self._new_parser(request).in_thought
        form = self._guidance.form_of(request, in_thought=in_thought)
        if form is not None:
            form.answer(request.max_tokens)  # refused here where it cannot be closed in time
        return form

    def _check(self, request: Request) -> Check | None:
        form, format = request.constraint, request.response_format
        if form is None or format is None or not form.constraint.left_out:
            return None
        return partial(schema_faults, format.value)

    def _begin(self, request: Request, drafts: bool) -> JobFeed:
        form = request.constraint
        answer = None if form is None else form.answer(request.max_tokens)
        return JobFeed(self._worker, Job(request, drafts=drafts, constraint=answer))

    def _says_nothing(self, job: Job, ids: list[int]) -> bool:
        """Whether a settled canvas should be denoised again: once, for an answer of no words."""
        first = job.number == 0 and not job.rerolled and not job.request.settings.thinking
        return first and self._protocol.closes_at_once(ids)

    def _new_denoiser(self, job: Job) -> CanvasDenoiser:
        request = job.request
        settings = decoding_settings(request.settings, self._defaults)
        guide = None if job.constraint is None else request.constraint.guide(job.constraint)
        noise = CanvasNoise(
            request.seed,
            job.number + REROLL * job.rerolled + ATTEMPT * request.attempt,
            settings.max_denoising_steps,
            self.info.canvas_length,
            self.info.vocabulary,
            self._model.device,
        )
        if job.number == 0 and not job.rerolled and request.settings.draft is not None:
            noise.start_from(self._draft_ids(request.settings.draft))
        if guide is not None and guide.steers:
            noise.pin(guide.pinned(self.info.canvas_length))
        return CanvasDenoiser(
            settings,
            self._plugins.sampler(request.settings.sampler)(settings),
            self._plugins.stop_rule(request.settings.stop_rule)(settings),
            noise,
            job.number,
            guide,
            self._barred,
        )

    def _draft_ids(self, draft: str) -> Tensor:
        """A draft as the whole answer it may be: its text, the turn's end, and padding."""
        ids = [*self._protocol.tokenizer.encode_text(draft), self._protocol.end_of_turn_id]
        ids += [self._protocol.pad_id] * (self.info.canvas_length - len(ids))
        return torch.tensor(ids[: self.info.canvas_length])

    def _observe(self, step: DenoiseStep) -> None:
        self._plugins.on_step(step)

    def _draft(self, step: DenoiseStep) -> Draft:
        ids = step.argmax.tolist()
        ends = [at for at, token in enumerate(ids) if token in self._defaults.stop_token_ids]
        shown = ids[: ends[0]] if ends else ids
        return Draft(
            canvas=step.canvas,
            step=step.step,
            max_steps=step.max_steps,
            text=self._protocol.tokenizer.decode(shown),
            token_ids=tuple(ids),
            accepted=int(step.accepted.sum()),
            mean_entropy=float(step.entropy.mean()),
        )


def tokenizer_of(folder: Path, config: ModelConfig) -> ChatTokenizer:
    """The folder's tokenizer. Raises `CheckpointError` if it is another model's."""
    tokenizer = ChatTokenizer.from_file(folder / "tokenizer.json")
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}/tokenizer.json has {tokenizer.vocab_size} tokens, config.json allows "
            f"{config.vocab_size}. The two files belong to different checkpoints."
        )
    if warning := template_warning(folder):
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
    return tokenizer


def load_model(
    config: ModelConfig,
    kernels: Kernels,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    quantization: QuantizationFormat | None = None,
) -> DiffusionGemma:
    """The network with the folder's weights, ready to run."""
    with torch.device("meta"):
        model = DiffusionGemma(config, kernels)
    load_into(model, folder, dtype=dtype, device=device, quantization=quantization)
    return model.requires_grad_(False).eval()


def decoding_settings(asked: GenerationSettings, own: DecodingDefaults) -> DecodingSettings:
    """The checkpoint's decoding with a request's changes."""
    changes: dict[str, Any] = {
        name: value
        for name in (
            "max_denoising_steps",
            "t_min",
            "t_max",
            "entropy_bound",
            "confidence_threshold",
            "stability_threshold",
            "temperature",
            "top_k",
            "top_p",
        )
        if (value := getattr(asked, name)) is not None
    }
    defaults = DecodingSettings(
        max_denoising_steps=own.max_denoising_steps,
        schedule_steps=own.max_denoising_steps,
        t_min=own.t_min,
        t_max=own.t_max,
        entropy_bound=own.entropy_bound,
        confidence_threshold=own.confidence_threshold,
        stability_threshold=own.stability_threshold,
    )
    return replace(defaults, **changes)
