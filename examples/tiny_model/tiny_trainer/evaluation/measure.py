"""Puts every case of a row to an engine and counts exact answers, steps and tokens."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import torch

from dgemma_backend import open_engine
from dgemma_backend.runtime.engine import Engine
from tiny_trainer.evaluation.rows import (
    HELD_OUT_ROWS,
    TRAINING_WORDING_ROWS,
    Row,
    same_answer,
    shown,
)
from tiny_trainer.words import HELD_OUT

KEPT_MISTAKES = 6


@dataclass
class Result:
    """A measured row. `chance` guesses among values of the kind asked, `any_value` among all."""

    name: str
    limit: bool
    n: int = 0
    exact: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    candidates: float = 0.0
    chance: float = 0.0
    any_value: float = 0.0
    steps_per_canvas: float = 0.0
    tokens_per_forward: float = 0.0
    prompt_tokens: float = 0.0
    mistakes: list[list[str]] = field(default_factory=list)


def measure(engine: Engine, row: Row, count: int, seed: str) -> Result:
    """`count` cases of one row, each with a seed of its own."""
    rng = Random(f"{seed}/{row.name}")
    result = Result(row.name, row.limit, n=count)
    right = steps = canvases = tokens = prompts = 0
    for number in range(count):
        example = row.make(rng, HELD_OUT)
        reply = engine.generate(
            example.messages, tools=example.tools, settings={"seed": number, "max_tokens": 256}
        )
        calls = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
        if same_answer(example, reply.text, calls):
            right += 1
        elif len(result.mistakes) < KEPT_MISTAKES:
            got = reply.text or "; ".join(f"{name} {json.dumps(given)}" for name, given in calls)
            result.mistakes.append([example.messages[-1].text, shown(example), got])
        steps += reply.usage.denoising_steps
        canvases += reply.usage.canvases
        tokens += reply.usage.completion_tokens
        prompts += reply.usage.prompt_tokens
        result.candidates += example.candidates / count
        result.chance += 1 / example.candidates / count
        result.any_value += 1 / example.values / count
    result.exact, result.interval = right / count, wilson(right, count)
    result.steps_per_canvas = steps / canvases
    result.tokens_per_forward = tokens / steps
    result.prompt_tokens = prompts / count
    return result


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return middle - half, middle + half


def measure_all(folder: Path, count: int, seed: str, processes: int) -> dict[str, Any]:
    """Both tables, and what they depend on. Each row is measured by one process."""
    begun = time.monotonic()
    places = [(name, number) for name, rows in TABLES.items() for number in range(len(rows))]
    tasks = [(folder, name, number, count, seed) for name, number in places]
    with get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
        lines = pool.starmap(_measure_row, tasks, chunksize=1)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for (name, _), line in zip(places, lines, strict=True):
        tables[name].append(line)
    weights = (folder / "model.safetensors").read_bytes()
    return {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "seed": seed,
        "decoding": "the checkpoint's own (at most 48 steps, entropy bound 0.1)",
        "arithmetic": f"float32 on CPU, weights stored in bfloat16, torch {torch.__version__}",
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - begun),
        **tables,
    }


TABLES: Mapping[str, tuple[Row, ...]] = {
    "held_out_wordings": HELD_OUT_ROWS,
    "training_wordings": TRAINING_WORDING_ROWS,
}


def _measure_row(folder: Path, table: str, number: int, count: int, seed: str) -> dict[str, Any]:
    with open_engine(str(folder), device="cpu", dtype="float32") as engine:
        return _rounded(measure(engine, TABLES[table][number], count, seed))


def _rounded(result: Result) -> dict[str, Any]:
    values = asdict(result)
    values["interval"] = [round(each, 3) for each in result.interval]
    line = {key: round(v, 3) if isinstance(v, float) else v for key, v in values.items()}
    print(f"{line['exact']:.3f}  {line['steps_per_canvas']:5.2f}  {line['name']}", flush=True)
    return line
