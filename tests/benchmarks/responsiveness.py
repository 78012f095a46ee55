"""How soon an engine does what it is told: stops, refuses, fails, exits, leaves a loop alone.

    .venv/bin/python tests/benchmarks/responsiveness.py --out responsiveness.json

The embedded model on CPU, one torch thread. Times in milliseconds, each beside its bound; those
of leaving include the rest of the denoising step under way, and stand without it too.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch

from dgemma_backend import open_engine
from dgemma_backend.errors import QueueFullError
from dgemma_backend.runtime.job import Job
from dgemma_backend.runtime.scheduler import Limits

ENDLESS = {"stop_rule": "never", "max_tokens": 800}
QUESTION = "Who are you?"
LEAVES, REFUSALS, FAULTS, EXITS = 1000, 1000, 500, 5
LEAVES_AFTER = 0.06  # seconds after its first step, at the most

EXITING = """
import threading, time
from dgemma_backend import open_engine
engine = open_engine("tiny", device="cpu")
stream = engine.stream("a", settings={"stop_rule": "never"}, drafts=True)
next(stream)
threading.Thread(target=list, args=(stream,), daemon=True).start()
time.sleep(0.2)
print(time.time(), flush=True)
"""


def spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1000 * each for each in seconds)
    at = {name: ordered[min(int(len(ordered) * q), len(ordered) - 1)] for name, q in QUANTILES}
    return {name: round(value, 3) for name, value in at.items()} | {"of": len(ordered)}


QUANTILES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


def held() -> float:
    """MiB in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def noted(engine: Any) -> Iterator[tuple[list[float], list[float]]]:
    """When steps were taken, and when jobs ended, by the clock of `perf_counter`."""
    steps: list[float] = []
    ends: list[float] = []
    end, on_step = Job.end, engine._plugins.on_step

    def noted_end(job: Job, error: BaseException | None = None) -> None:
        end(job, error)
        ends.append(time.perf_counter())

    Job.end = noted_end  # type: ignore[method-assign,assignment]
    engine._plugins.on_step = lambda _: steps.append(time.perf_counter())
    try:
        yield steps, ends
    finally:
        Job.end = end  # type: ignore[method-assign]
        engine._plugins.on_step = on_step


def leave_by_closing(engine: Any, steps: list[float], wait: float) -> float:
    """What closing, dropping and collecting a stream come down to; returns when it was done."""
    feed = engine._begin(engine._open(QUESTION, (), None, None, ENDLESS), False)
    while not steps:
        time.sleep(0.0002)
    time.sleep(wait)
    left = time.perf_counter()
    feed.close()
    return left


def leave_by_cancelling(engine: Any, steps: list[float], wait: float) -> float:
    async def cancelled() -> float:
        task = asyncio.create_task(engine.agenerate(QUESTION, settings=ENDLESS))
        while not steps:
            await asyncio.sleep(0.0002)
        await asyncio.sleep(wait)
        left = time.perf_counter()
        task.cancel()
        await asyncio.wait([task])
        return left

    return asyncio.run(cancelled())


def leaving(engine: Any) -> dict[str, Any]:
    """From the wish to stop until the engine has let go of the request."""
    rng, latencies, beyond, more, taken = Random(0), [], [], [], list[float]()
    before = held()
    with noted(engine) as (steps, ends):
        for number in range(LEAVES):
            while engine._worker._running().active:
                time.sleep(0.0002)
            steps.clear()
            ends.clear()
            leave = leave_by_cancelling if number % 2 else leave_by_closing
            left = leave(engine, steps, rng.uniform(0, LEAVES_AFTER))
            while not ends:
                time.sleep(0.0002)
            latencies.append(ends[0] - left)
            beyond.append(ends[0] - max(left, steps[-1]))
            more.append(sum(each > left for each in steps))
            taken += [later - sooner for sooner, later in pairwise(steps)]
    step = spread(taken)
    return {
        **spread(latencies),
        "beyond the step under way": spread(beyond) | {"bound_p99": 20},
        "a step": step,
        "steps_after": {"most": max(more), "mean": round(sum(more) / len(more), 3)},
        "rss_growth_mib": round(held() - before, 2),
    }


def refusing() -> dict[str, Any]:
    """A full line says so."""
    engine: Any = open_engine("tiny", device="cpu", limits=Limits(active=1, queued=2))
    with engine:
        feeds = []
        while engine._worker._running().waiting < 2:
            feeds.append(engine._begin(engine._open(QUESTION, (), None, None, ENDLESS), False))
            time.sleep(0.1)
        spent = []
        for _ in range(REFUSALS):
            begun = time.perf_counter()
            try:
                engine.generate(QUESTION)
            except QueueFullError:
                spent.append(time.perf_counter() - begun)
        for feed in feeds:
            feed.close()
    return {**spread(spent), "bound_p99": 10}


def failing(engine: Any) -> dict[str, Any]:
    """From an exception on the engine's thread until a reader has it, by turns in a thread and
    in an event loop."""
    passes = engine._worker._running()._passes
    real, raised, spent = passes.denoise, [0.0], []

    def denoise(jobs: Any) -> None:
        raised[0] = time.perf_counter()
        raise ValueError("planned")

    passes.denoise = denoise
    try:
        for number in range(FAULTS):
            try:
                if number % 2:
                    asyncio.run(engine.agenerate(QUESTION))
                else:
                    engine.generate(QUESTION)
            except ValueError:
                spent.append(time.perf_counter() - raised[0])
    finally:
        passes.denoise = real
    return {**spread(spent), "bound_max": 100}


async def gaps_beside(work: Callable[[], Any]) -> list[float]:
    """How late a 5 ms ticker comes, in all: the times between two of its ticks."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    ticker = asyncio.create_task(tick())
    await work()
    ticker.cancel()
    return gaps


def ticking(engine: Any) -> dict[str, Any]:
    async def two() -> None:
        asked = (engine.agenerate(QUESTION, settings={**ENDLESS, "max_tokens": 64}) for _ in "ab")
        await asyncio.gather(*asked)

    async def rendering() -> None:
        text = ("the old river is green " * 5000)[:100_000]
        for _ in range(10):  # longer than the context, so it is refused once rendered
            await asyncio.gather(engine.agenerate(text), return_exceptions=True)

    async def nothing() -> None:
        await asyncio.sleep(3)

    return {
        "beside two answers": spread(asyncio.run(gaps_beside(two))) | {"bound_max": 50},
        "beside prompts of 100,000 characters": spread(asyncio.run(gaps_beside(rendering))),
        "beside nothing": spread(asyncio.run(gaps_beside(nothing))),
    }


def exiting() -> dict[str, Any]:
    """From the last line of a program with an answer under way until the process is gone."""
    spent = []
    for _ in range(EXITS):
        done = subprocess.run(
            [sys.executable, "-c", EXITING], capture_output=True, text=True, check=True
        )
        spent.append(time.time() - float(done.stdout))
    return {**spread(spent), "bound_max": 2000}


def processor() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return names[0].partition(": ")[2] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    rows: dict[str, Any] = {}
    with open_engine("tiny", device="cpu", dtype="float32") as engine:
        engine.generate(QUESTION)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "stopped after it was left": lambda: leaving(engine),
            "refused by a full line": refusing,
            "told of an error": lambda: failing(engine),
            "gaps of a 5 ms ticker": lambda: ticking(engine),
            "gone with an answer under way": exiting,
        }
        for name, measure in parts.items():
            rows[name] = measure()
            print(name, json.dumps(rows[name]), flush=True)
    load.append(os.getloadavg()[0])
    report = {
        "command": "python tests/benchmarks/responsiveness.py",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load_1min": load},
        "versions": {"torch": version("torch"), "python": platform.python_version()},
        "conditions": {"model": "tiny", "dtype": "float32", "threads": 1, "unit": "ms"},
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
