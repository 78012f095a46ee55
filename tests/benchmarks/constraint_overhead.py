"""What a constraint adds to a canvas of the mid-size random model, on CPU.

    .venv/bin/python tests/benchmarks/constraint_overhead.py \\
        --out tests/benchmarks/results/constraint-overhead.json

One canvas of 256 positions takes 8 denoising steps without a constraint, then with one that acts
at commit only ("off"), then with one that steers every step ("joint"), in turns. Weights are
random, so every canvas takes all of its steps. The vocabulary has 32,768 pieces.
"""

import argparse
import importlib.util
import json
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dgemma_backend.config import ModelConfig
from dgemma_backend.constraint import ConstraintCompiler, Markers, Vocabulary
from dgemma_backend.constraint.decode import ConstrainedAnswer
from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.steering import Steering
from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    EntropyBoundSampler,
    Never,
    denoise_canvas,
)
from dgemma_backend.model import DiffusionGemma
from dgemma_kernels import class_order

PROMPT, STEPS, TURNS = 128, 8, 2
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def neighbour(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{name}.py is not here")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vocabulary_of(size: int) -> Vocabulary:
    """All bytes, and words of two to eight letters; the last ten ids are control tokens."""
    draw = random.Random(0)
    letters = 'etaoinshrdlu ,."{}:0123456789'
    words = (
        "".join(draw.choices(letters, k=draw.randint(2, 8))).encode() for _ in range(size - 266)
    )
    return Vocabulary([*(bytes([byte]) for byte in range(256)), *words, *[None] * 10])


def runs() -> dict[str, Callable[[], float]]:
    """A function for each way, that denoises a canvas and gives the seconds its commit took."""
    facts = neighbour("cpu_step").facts_of("mid")
    size, length = facts["text_config"]["vocab_size"], facts["canvas_length"]
    model = DiffusionGemma(ModelConfig.from_dict(facts)).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    cache = model.new_cache()
    with torch.inference_mode():
        model.encode([torch.arange(PROMPT) % size], [cache])
    context = model.canvas_context([cache])
    last = size - 10
    open_, close, quote, channel, after = range(last, last + 5)
    ends, behind, padding = (last + 5, last + 6), (last + 7,), (last + 8,)
    markers = Markers(open_, close, quote, channel, after, ends, behind, padding)
    automaton = ConstraintCompiler(vocabulary_of(size), markers).schema(SCHEMA).automaton
    tables = PathTables(automaton)
    order = class_order(torch.from_numpy(automaton.class_of.copy()), automaton.classes)
    settings = DecodingSettings(STEPS, STEPS, 0.4, 0.8, 0.1, 0.005, 1)

    def run(steering: Any) -> float:
        noise = CanvasNoise(0, 0, STEPS, length, size, torch.device("cpu"))
        answer = ConstrainedAnswer(tables, 1024)
        guide = None if steering is None else Steering(answer, order, steering)
        seen: list[Any] = []

        def logits_of(canvas: torch.Tensor, guess: torch.Tensor | None) -> Any:
            found = model.denoise(canvas[None], None if guess is None else guess[None], context)[0]
            seen[:] = [found]
            return found

        sampler = EntropyBoundSampler(settings)
        denoiser = CanvasDenoiser(settings, sampler, Never(), noise, guide=guide)
        with torch.inference_mode():
            deque(denoise_canvas(logits_of, denoiser), maxlen=0)
            begun = time.perf_counter()
            denoiser.committed(seen[0])
        return time.perf_counter() - begun

    ways = {"none": None, "off": "off", "joint": "joint"}
    return {name: partial(run, way) for name, way in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    whole: dict[str, list[float]] = {}
    commit: dict[str, list[float]] = {}
    ready = runs()
    for turn in range(TURNS + 1):
        for name, run in ready.items():
            begun = time.perf_counter()
            took = run()
            if turn:
                whole.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
                commit.setdefault(name, []).append(1000 * took)
    canvas = {name: statistics.median(times) for name, times in whole.items()}
    ends = {name: statistics.median(times) for name, times in commit.items()}
    report = {
        "command": "python tests/benchmarks/constraint_overhead.py",
        "machine": {"processor": neighbour("cpu_step").processor(), "threads": given.threads},
        "versions": {"torch": version("torch"), "python": platform.python_version()},
        "conditions": {"prompt": PROMPT, "steps": STEPS, "turns": TURNS, "schema": "name and age"},
        "canvas_ms": {name: round(value, 1) for name, value in canvas.items()},
        "commit_ms": {name: round(value, 2) for name, value in ends.items()},
        "commit_share_percent": round(100 * (ends["off"] - ends["none"]) / canvas["none"], 2),
        "steering_share_percent": round(100 * (canvas["joint"] / canvas["none"] - 1), 1),
    }
    print(json.dumps(report, indent=1))
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
