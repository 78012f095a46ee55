"""A whole denoising step: ours as a graph and launch by launch, transformers', and the floor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    EntropyBoundSampler,
    Never,
)
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.model.diffusion_gemma import Context
from dgemma_backend.runtime.captured_step import CapturedStep, _capture_cuda

from .bench import Bench
from .compare import relative_error
from .roofline import Load, step_floor_ms
from .timing import Timing
from .transformers_side import denoising_step, shared_decoder
from .weights import random_cache

_MOST_STEPS = 64  # warm-up, recording and turns together are fewer


def eagerly(run: Callable[[], None]) -> Callable[[], None]:
    """In place of recording a graph: launch by launch."""
    return run


def measure_steps(bench: Bench, form: str) -> None:
    """Every batch and prefix as a graph; the smallest also without, and beside transformers.

    Without CUDA there are no graphs, and batches only in bf16: an interpreter takes its time.
    """
    model = bench.model_in(form)
    shapes = bench.shapes
    if bench.cuda:
        _check_graph(bench, model, form)
    for batch in shapes.batches if bench.cuda or form == "bf16" else shapes.batches[:1]:
        for prefix in shapes.prefixes:
            bench.clock.check()
            _measure(bench, model, form, batch, prefix, eager=bench.cuda and batch == 1)
    if form == "bf16":
        _measure_theirs(bench, model)


def denoisers(bench: Bench, batch: int, steps: int) -> list[CanvasDenoiser]:
    """Canvases about to begin that never stop before their last step."""
    settings = DecodingSettings(steps, steps, 0.4, 0.8, 0.1, 0.005, 1)
    config = bench.shapes.config
    size = config.canvas_length, config.vocab_size
    return [
        CanvasDenoiser(
            settings,
            EntropyBoundSampler(settings),
            Never(),
            CanvasNoise(seed, 0, steps, *size, bench.device),
        )
        for seed in range(batch)
    ]


def new_step(
    bench: Bench, model: DiffusionGemma, context: Context, batch: int, *, graph: bool
) -> CapturedStep:
    """The step of new canvases, to be repeated. Raises RuntimeError if it cannot be recorded."""
    capture = _capture_cuda if graph and bench.cuda else eagerly
    canvases = denoisers(bench, batch, _MOST_STEPS)
    step = CapturedStep(model, canvases, context, _MOST_STEPS, capture)
    step.load(canvases, context)  # recording took a step or two
    return step


def _measure(
    bench: Bench, model: DiffusionGemma, form: str, batch: int, prefix: int, *, eager: bool
) -> None:
    bench.begin_peak()
    load = Load(batch, bench.shapes.config.canvas_length, prefix)
    for graph in (True, False) if eager else (True,):
        how = "graph" if graph and bench.cuda else "eager"
        try:
            caches = [random_cache(model, prefix, bench.draw()) for _ in range(batch)]
            context = model.canvas_context(caches)
            step = new_step(bench, model, context, batch, graph=graph)
            found = _timed(bench, step.replay)
            _add(bench, form, load, found._replace(how=how))
        except RuntimeError as error:
            _fault(bench, form, load, error, how)


def _measure_theirs(bench: Bench, model: DiffusionGemma) -> None:
    """Its own step, launch by launch; it runs out of memory first."""
    shapes, config = bench.shapes, bench.shapes.config
    loads = [(1, prefix) for prefix in shapes.prefixes]
    loads += [(batch, shapes.prefixes[0]) for batch in shapes.batches[1:]]
    decoder, missing = shared_decoder(shapes, model)
    if missing:
        bench.journal.add("skipped", what="transformers' step", why=missing)
        return
    for batch, prefix in loads:
        bench.clock.check()
        bench.begin_peak()
        load = Load(batch, config.canvas_length, prefix)
        try:
            caches = [random_cache(model, prefix, bench.draw()) for _ in range(batch)]
            found = _timed(bench, denoising_step(decoder, caches, config))
            _add(bench, "bf16", load, found._replace(how="transformers"))
        except Exception as error:  # noqa: BLE001  another version of it must not end the phase
            _fault(bench, "bf16", load, error, "transformers")


def _timed(bench: Bench, run: Callable[[], object]) -> Timing:
    return bench.stopwatch.measure(run, bench.shapes.turns, graph=False, cold=False)


def _add(bench: Bench, form: str, load: Load, found: Timing) -> None:
    floor = step_floor_ms(bench.shapes.config, form, load, bench.ceilings)
    bench.journal.add(
        "step",
        form=form,
        batch=load.rows,
        prefix=load.prefix,
        **found.facts(),
        floor_ms=float(f"{floor:.4g}"),
        times_floor=round(found.median / floor, 3),
        peak_gb=bench.peak_gb,
        left_to_reference=list(bench.replaced),
    )


def _fault(bench: Bench, form: str, load: Load, error: Exception, how: str) -> None:
    """A row; and no more than that, as long as the device is there."""
    why = f"{type(error).__name__}: {str(error)[:200]}"
    bench.journal.add("step", form=form, batch=load.rows, prefix=load.prefix, how=how, fault=why)
    bench.give_up_if_lost("")
    bench.free()


def _check_graph(bench: Bench, model: DiffusionGemma, form: str) -> None:
    """A graph gives what the same launches give one by one, to the bit."""
    cache = random_cache(model, bench.shapes.prefixes[0], bench.draw())
    context = model.canvas_context([cache])
    found: list[Sequence[Any]] = []
    row = {"what": f"graph as launch by launch, {form}"}
    try:
        for graph in (True, False):
            step = new_step(bench, model, context, 1, graph=graph)
            for _ in range(2):
                ((last, _),) = step.replay()
            found.append((last.canvas, last.entropy, last.finite.all()))
    except RuntimeError as error:
        bench.journal.add("check", **row, passed=False, fault=str(error)[:300])
        bench.give_up_if_lost("")
        return
    (canvas, entropy, finite), (again, other, _) = found
    same = torch.equal(canvas, again) and torch.equal(entropy, other)
    apart = relative_error(entropy, other)
    bench.journal.add("check", **row, passed=same and bool(finite), errors={"entropy": apart})
