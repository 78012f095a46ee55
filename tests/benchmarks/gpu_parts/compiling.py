"""Compiles what the steps launch, in several processes, before anything is measured.

Compilers leave their work in Triton's cache on disk, where the measuring process finds it. A model
of two layers, one of each kind, launches the same kernels as the whole one.
"""

import multiprocessing
import os
import time
from dataclasses import replace
from multiprocessing.pool import IMapIterator
from typing import Any, NamedTuple

import torch

from dgemma_backend.diffusion import CanvasNoise
from dgemma_backend.model import DiffusionGemma
from dgemma_kernels import Draws, reference_kernels

from .bench import Bench
from .cases import Draw, tables
from .compare import poisoned
from .interpreter import interpreted, prepare
from .journal import OutOfTimeError
from .kernel_checks import AWKWARD, DTYPES, small_cases
from .shapes import FORMATS, Shapes, real_shapes, toy_shapes, two_layers
from .weights import empty_model, random_cache

STEPS, ENCODER = "steps", "encoder"
SMALL, SMALL_PRODUCTS = "small", "small products"
_MEMORY = 8e9  # bytes of the device for each compiling process


class Job(NamedTuple):
    """What one process compiles."""

    part: str
    form: str = ""
    batch: int = 0
    dtype: torch.dtype = torch.bfloat16
    toy: bool = False


class Resources(NamedTuple):
    """What the compiler says of a kernel."""

    kernel: str
    registers: int
    spills: int
    shared: int


class Compiled(NamedTuple):
    """What became of a job."""

    job: Job
    seconds: float
    kernels: tuple[Resources, ...]
    fault: str


def compile_all(bench: Bench) -> None:
    """A row for each job; a kernel that spills, or that fails to compile, is a fault."""
    jobs = [Job(STEPS, form, batch) for batch in bench.shapes.batches for form in FORMATS]
    jobs += [Job(ENCODER, form, 1) for form in FORMATS]
    jobs += [Job(SMALL_PRODUCTS), *(Job(SMALL, dtype=dtype) for dtype in DTYPES)]
    jobs = [job._replace(toy=bench.toy) for job in jobs]
    if not bench.cuda:  # in the interpreter nothing is compiled
        jobs = jobs[:1]
    context = multiprocessing.get_context("spawn")
    with context.Pool(_processes(bench, len(jobs))) as pool:  # its end is theirs
        done = pool.imap_unordered(compile_job, jobs)
        for _ in jobs:
            _add(bench, _next(done, bench.clock.left))


def _processes(bench: Bench, jobs: int) -> int:
    fitting = (os.cpu_count() or 1) - 1
    if bench.cuda:
        fitting = min(fitting, int(torch.cuda.mem_get_info()[0] / _MEMORY))
    return max(1, min(jobs, fitting))


def _next(done: "IMapIterator[Compiled]", seconds: float) -> Compiled:
    try:
        return done.next(timeout=max(seconds, 0.1))
    except multiprocessing.TimeoutError:
        raise OutOfTimeError("compilers are still at work") from None


def _add(bench: Bench, found: Compiled) -> None:
    spilling = {each.kernel: each.spills for each in found.kernels if each.spills}
    bench.journal.add(
        "compile",
        what=found.job.part,
        form=found.job.form,
        batch=found.job.batch,
        dtype=str(found.job.dtype).removeprefix("torch."),
        seconds=round(found.seconds, 1),
        kernels=len(found.kernels),
        most_registers=max((each.registers for each in found.kernels), default=0),
        spills=spilling,
        fault=found.fault,
        passed=not spilling and (not found.fault or found.fault.startswith("OutOfMemoryError")),
    )


def compile_job(job: Job) -> Compiled:
    """Launch, or with CUDA only compile, everything that the job is about."""
    begun, kernels, fault = time.monotonic(), {}, ""
    try:
        prepare()
        if not interpreted():
            kernels = _launches_only_compile()
        shapes = toy_shapes() if job.toy else real_shapes()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Where nothing is run, outputs stay as they are allocated, and some of them are indices.
        with torch.inference_mode(), poisoned(0.0, 0):
            draw = Draw(device, job.dtype, 0)
            _launch(job, shapes, draw)
        found = tuple(_resources(each) for each in kernels.values())
    except Exception as error:  # noqa: BLE001  the row says what it was
        found, fault = (), f"{type(error).__name__}: {str(error)[:300]}"
    return Compiled(job, time.monotonic() - begun, found, fault)


def _launches_only_compile() -> dict[int, Any]:
    """From now on kernels of this process are compiled, kept here, and not run."""
    from triton.runtime.jit import JITFunction

    kept: dict[int, Any] = {}
    run = JITFunction.run

    def compiled(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        if kernel is not None:
            kept[id(kernel)] = kernel
        return kernel

    JITFunction.run = compiled
    return kept


def _resources(kernel: Any) -> Resources:
    kernel._init_handles()  # loads it, which is when the driver tells
    name = str(kernel.metadata.name)
    return Resources(name, kernel.n_regs, kernel.n_spills, kernel.metadata.shared)


def _launch(job: Job, shapes: Shapes, draw: Draw) -> None:
    if job.part in (SMALL, SMALL_PRODUCTS):
        _launch_small(job, draw)
        return
    table = tables()[job.form]
    if job.form != "bf16":  # another process compiles what does not depend on the format
        table = replace(reference_kernels(), experts=table.experts, linear=table.linear)
    model = empty_model(two_layers(shapes.config), table, job.form, draw)
    if job.part == STEPS:
        _launch_steps(job, model, shapes, draw)
    else:
        _launch_encoder(model, shapes, draw)


def _launch_steps(job: Job, model: DiffusionGemma, shapes: Shapes, draw: Draw) -> None:
    """Canvases after every prefix, and encoding them once they are settled."""
    canvas, config = model.config.canvas_length, model.config
    noise = CanvasNoise(0, 0, 1, job.batch * canvas, config.vocab_size, draw.device)
    ones = torch.ones(job.batch * canvas, device=draw.device)
    draws = Draws(ones, ones, noise.step(1).uniform)
    guess = draw.normal(job.batch, canvas, config.hidden_size)
    for prefix in shapes.prefixes:
        caches = [random_cache(model, prefix, draw) for _ in range(job.batch)]
        context = model.canvas_context(caches)
        logits = model.denoise(noise.first.view(job.batch, canvas), guess, context)
        logits.vocabulary_pass(draws, guess=True)
        if prefix == shapes.prefixes[0]:
            model.encode([draw.ids(1, canvas)] * job.batch, caches)


def _launch_encoder(model: DiffusionGemma, shapes: Shapes, draw: Draw) -> None:
    """Pieces of a prompt, and one token."""
    for prefix in (0, *shapes.prompts):
        for tokens in (shapes.piece, 1):
            cache = random_cache(model, prefix, draw) if prefix else model.new_cache()
            model.encode([draw.ids(1, tokens)], [cache])


def _launch_small(job: Job, draw: Draw) -> None:
    for load in AWKWARD:
        for case in small_cases(load, job.dtype):
            if (case.kernel in ("experts", "linear")) == (job.part == SMALL_PRODUCTS):
                case.run(tables()[case.form], case.make(draw))
