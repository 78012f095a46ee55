"""Tokens a second, the first text of a prompt, and one token at a time with the same weights."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dgemma_backend.model import DiffusionGemma, KVCache
from dgemma_backend.runtime.captured_step import CapturedSteps
from dgemma_kernels import reference_kernels

from .bench import Bench
from .roofline import Load, token_floor_ms
from .steps import denoisers, eagerly
from .weights import random_cache, shared_model


def measure_speeds(bench: Bench, form: str) -> None:
    """All of one format. One canvas is denoised as an engine does it, flags read each step.

    Without CUDA the references compute: an interpreter would take minutes to show nothing more.
    """
    model = bench.model_in(form)
    if not bench.cuda:
        model = shared_model(model, reference_kernels())
    graphs = _graphs(bench, model)
    canvas_ms = _canvases(bench, model, form, graphs)
    _batches(bench, model, form)
    for prompt in bench.shapes.prompts:
        bench.clock.check()
        _first_text(bench, model, form, graphs, prompt)
    del graphs
    bench.free()
    for prefix in bench.shapes.prompts:
        bench.clock.check()
        _one_token(bench, model, form, prefix, canvas_ms)


def _graphs(bench: Bench, model: DiffusionGemma) -> CapturedSteps:
    """Steps as graphs, or launch by launch where they cannot be recorded."""
    if bench.cuda:
        graphs = CapturedSteps(model)
        cache = random_cache(model, bench.shapes.prefixes[0], bench.draw())
        if graphs.step(denoisers(bench, 1, 2), model.canvas_context([cache])):
            return graphs
        bench.journal.add("skipped", what="graphs", why="a step could not be recorded")
    return CapturedSteps(model, eagerly)


def _canvases(
    bench: Bench, model: DiffusionGemma, form: str, graphs: CapturedSteps
) -> dict[int, float]:
    """Milliseconds of one canvas by its steps, from noise until it is encoded."""
    prefix, found = bench.shapes.prefixes[0], {}

    def whole(steps: int) -> Callable[[], object]:
        cache = random_cache(model, prefix, bench.draw())
        return lambda: model.encode([_denoised(bench, model, graphs, cache, steps)], [cache])

    whole(1)()  # warms up
    for steps in bench.shapes.steps:
        bench.clock.check()
        found[steps] = bench.stopwatch.wall_ms(whole(steps))
        _add_speed(bench, form, 1, prefix, steps, found[steps], "measured")
    return found


def _batches(bench: Bench, model: DiffusionGemma, form: str) -> None:
    """Of several canvases at once: their measured step so many times, and encoding them."""
    prefix, length = bench.shapes.prefixes[0], bench.shapes.config.canvas_length
    for batch in bench.shapes.batches[1:]:
        step = _step_ms(bench, form, batch, prefix)
        if step is None:
            continue
        bench.clock.check()
        ids = bench.draw().ids(model.config.vocab_size, batch, length)
        times = []
        for _ in range(2):
            caches = [random_cache(model, prefix, bench.draw()) for _ in range(batch)]

            def run(rows: Tensor = ids, caches: list[KVCache] = caches) -> None:
                model.encode(list(rows), caches)

            times.append(bench.stopwatch.wall_ms(run))
        for steps in bench.shapes.steps:
            ms = steps * step + min(times)
            _add_speed(bench, form, batch, prefix, steps, ms, "from step and encoding")


def _step_ms(bench: Bench, form: str, batch: int, prefix: int) -> float | None:
    wanted = {"kind": "step", "form": form, "batch": batch, "prefix": prefix}
    for row in bench.journal.rows:
        if wanted.items() <= row.items() and "ms" in row and row["how"] != "transformers":
            return float(row["ms"])
    return None


def _add_speed(
    bench: Bench, form: str, batch: int, prefix: int, steps: int, ms: float, how: str
) -> None:
    tokens = batch * bench.shapes.config.canvas_length
    bench.journal.add(
        "speed",
        form=form,
        batch=batch,
        prefix=prefix,
        steps=steps,
        canvas_ms=float(f"{ms:.5g}"),
        tokens_per_s=float(f"{1000 * tokens / ms:.4g}"),
        how=how,
    )


def _denoised(
    bench: Bench, model: DiffusionGemma, graphs: CapturedSteps, cache: KVCache, steps: int
) -> Tensor:
    """The canvas `(L,)` after that many steps."""
    (denoiser,) = denoisers(bench, 1, steps)
    context = model.canvas_context([cache])
    while not denoiser.done:
        taken = graphs.step([denoiser], context)
        if taken is None:
            raise RuntimeError("the step could not be recorded as a graph")
        denoiser.advance(taken[0][0])
    return denoiser.argmax


def _first_text(
    bench: Bench, model: DiffusionGemma, form: str, graphs: CapturedSteps, prompt: int
) -> None:
    """From the prompt's ids until there is a draft, and until a canvas has settled."""
    steps = bench.shapes.steps[1]
    ids = bench.draw().ids(model.config.vocab_size, prompt)

    def encoded() -> KVCache:
        cache = model.new_cache()
        for piece in ids.split(bench.shapes.piece):
            model.encode([piece], [cache])
        return cache

    def upto(steps: int) -> Callable[[], object]:
        return lambda: _denoised(bench, model, graphs, encoded(), steps)

    upto(1)()  # warms up
    measured = {
        "prefill_ms": bench.stopwatch.wall_ms(encoded),
        "draft_ms": bench.stopwatch.wall_ms(upto(1)),
        "canvas_ms": bench.stopwatch.wall_ms(upto(steps)),
    }
    rounded = {name: float(f"{ms:.5g}") for name, ms in measured.items()}
    bench.journal.add("first_text", form=form, prompt=prompt, steps=steps, **rounded)


def _one_token(
    bench: Bench, model: DiffusionGemma, form: str, prefix: int, canvas_ms: dict[int, float]
) -> None:
    """Our own encoder as an autoregressive model: a token in, the likeliest next one out."""
    cache = random_cache(model, prefix, bench.draw())
    token = bench.draw().ids(model.config.vocab_size, 1)
    context = model._context([1], [cache], encoding=True)

    def run() -> Tensor:
        # One position again and again: what changes from token to token is no work.
        hidden = model._through_layers(model.embed_tokens(token), context)
        return (hidden @ model.embed_tokens.weight.t()).argmax(dim=-1)

    eager = bench.stopwatch.measure(run, bench.shapes.turns, graph=False, cold=False)
    found = bench.stopwatch.measure(run, bench.shapes.turns, cold=False)
    floor = token_floor_ms(bench.shapes.config, form, Load(1, 1, prefix), bench.ceilings)
    row: dict[str, Any] = found.facts() | {
        "eager_ms": float(f"{eager.median:.5g}"),
        "floor_ms": float(f"{floor:.4g}"),
        "tokens_per_s": float(f"{1000 / found.median:.4g}"),
    }
    length = bench.shapes.config.canvas_length
    if prefix == bench.shapes.prefixes[0]:  # where canvases were measured
        row["canvas_is_faster"] = {
            str(steps): round(length * found.median / ms, 2) for steps, ms in canvas_ms.items()
        }
    bench.journal.add("token", form=form, prefix=prefix, **row)
