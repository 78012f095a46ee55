"""The engine that runs a checkpoint in this process, on CPU or CUDA."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.config import DecodingDefaults, ModelConfig
from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    DenoiseStep,
    denoise_canvas,
)
from dgemma_backend.errors import CheckpointError, EngineClosedError
from dgemma_backend.events import Draft
from dgemma_backend.model import CanvasLogits, DiffusionGemma, KVCache
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.captured_step import CapturedStep, CapturedSteps
from dgemma_backend.runtime.devices import choose_device, choose_dtype, choose_kernels
from dgemma_backend.runtime.engine import CanvasResult, Engine, EngineInfo, Progress
from dgemma_backend.runtime.registry import forget
from dgemma_backend.runtime.request import Request
from dgemma_backend.settings import GenerationSettings
from dgemma_backend.weights.checkpoint import load_into
from dgemma_backend.weights.sources import resolve
from dgemma_kernels import Kernels

PREFILL_PIECE = 512
"""Prompt tokens encoded in one pass: bounds the attention mask and lets a request be cancelled."""


class TorchEngine(Engine):
    """One model on one device. A lock is held for a pass, never while a caller reads."""

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
    ) -> None:
        """Load `model`. Raises as `open_engine` does; a failed load leaves nothing behind."""
        place = choose_device(device)
        precision = choose_dtype(dtype, place)
        if quantization is not None:
            plugins.quantization(quantization)  # no format is built in yet: says what there is
        table = choose_kernels(kernels, plugins, place, precision)
        folder = resolve(model)
        config = ModelConfig.from_folder(folder)
        defaults = DecodingDefaults.from_folder(folder)
        tokenizer = ChatTokenizer.from_file(folder / "tokenizer.json")
        if tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{folder}/tokenizer.json has {tokenizer.vocab_size} tokens, config.json allows "
                f"{config.vocab_size}. The two files belong to different checkpoints."
            )
        self._model = load_model(config, table, folder, precision, place)
        self._config = config
        self._captured = CapturedSteps(self._model) if place.type == "cuda" else None
        self._pass = threading.Lock()
        info = EngineInfo(
            engine="torch",
            model=str(model),
            folder=str(folder),
            device=str(place),
            dtype=str(precision).removeprefix("torch."),
            kernels=table.name,
            quantization=quantization,
            canvas_length=config.canvas_length,
            context_length=config.max_position_embeddings,
            vocabulary=config.vocab_size,
            parameters=sum(p.numel() for p in self._model.parameters()),
            weight_bytes=sum(p.numel() * p.element_size() for p in self._model.parameters()),
        )
        super().__init__(info, plugins.chat_protocol(protocol)(tokenizer), defaults, plugins)

    def close(self) -> None:
        """Free the weights. A request under way ends with `EngineClosedError`."""
        with self._pass:
            super().close()
            forget(self)
            self.__dict__.pop("_model", None)
            self._captured = None

    def _canvases(
        self, request: Request, progress: Progress, drafts: bool
    ) -> Iterator[Draft | CanvasResult]:
        cache = self._prefill(request, progress)
        count = -(-request.max_tokens // self.info.canvas_length)
        for number in range(count):
            denoiser = self._new_denoiser(request, number)
            for step in self._steps(request, denoiser, cache):
                progress.steps += 1
                self._plugins.on_step(step)
                if drafts:
                    yield self._draft(step)
            progress.canvases += 1
            settled = denoiser.argmax.tolist()
            yield CanvasResult(number, settled, denoiser.steps, denoiser.stopped)
            if number + 1 < count:
                request.check()
                self._encode(denoiser.argmax, cache)

    def _prefill(self, request: Request, progress: Progress) -> KVCache:
        """Encode the prompt, piece by piece."""
        begun = time.perf_counter()
        cache = self._open_model().new_cache()
        for piece in torch.tensor(request.prompt_ids).split(PREFILL_PIECE):
            request.check()
            self._encode(piece, cache)
        progress.prefill_seconds = time.perf_counter() - begun
        return cache

    def _encode(self, tokens: Tensor, cache: KVCache) -> None:
        with self._pass, torch.inference_mode():
            model = self._open_model()
            model.encode([tokens.to(model.device)], [cache])

    def _steps(
        self, request: Request, denoiser: CanvasDenoiser, cache: KVCache
    ) -> Iterator[DenoiseStep]:
        with self._pass, torch.inference_mode():
            context = self._open_model().canvas_context([cache])
            graph = self._captured and self._captured.begin([denoiser], context)
        if graph:
            with graph:
                yield from self._replayed(request, denoiser, graph)
            return

        def logits_of(canvas: Tensor, guess: Tensor | None) -> CanvasLogits:
            soft = None if guess is None else guess.unsqueeze(0)
            return self._open_model().denoise(canvas.unsqueeze(0), soft, context)[0]

        steps = denoise_canvas(logits_of, denoiser)
        while True:
            request.check()
            with self._pass, torch.inference_mode():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _replayed(
        self, request: Request, denoiser: CanvasDenoiser, graph: CapturedStep
    ) -> Iterator[DenoiseStep]:
        while not denoiser.done:
            request.check()
            with self._pass, torch.inference_mode():
                self._open_model()
                (taken,) = graph.replay()
                step = denoiser.advance(taken)
            yield step

    def _new_denoiser(self, request: Request, number: int) -> CanvasDenoiser:
        settings = decoding_settings(request.settings, self._defaults)
        noise = CanvasNoise(
            request.seed,
            number,
            settings.max_denoising_steps,
            self.info.canvas_length,
            self.info.vocabulary,
            self._open_model().device,
        )
        return CanvasDenoiser(
            settings,
            self._plugins.sampler(request.settings.sampler)(settings),
            self._plugins.stop_rule(request.settings.stop_rule)(settings),
            noise,
            number,
        )

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

    def _open_model(self) -> DiffusionGemma:
        model: DiffusionGemma | None = self.__dict__.get("_model")
        if model is None:
            raise EngineClosedError(f"The engine of {self.info.model!r} was closed meanwhile.")
        return model


def load_model(
    config: ModelConfig, kernels: Kernels, folder: Path, dtype: torch.dtype, device: torch.device
) -> DiffusionGemma:
    """The network with the folder's weights, ready to run."""
    with torch.device("meta"):
        model = DiffusionGemma(config, kernels)
    load_into(model, folder, dtype=dtype, device=device)
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
