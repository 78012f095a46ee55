"""Puts every case of a row to an engine and counts exact answers, steps and tokens."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import torch

from dgemma_backend import open_engine
from dgemma_backend.messages import Reply
from dgemma_backend.runtime.engine import Engine
from tiny_trainer.evaluation.rows import ROWS, WORD_ROWS, Row
from tiny_trainer.evaluation.scoring import expected, given
from tiny_trainer.examples import Example

KEPT_MISTAKES = 6
AT_ONCE = 8  # requests that the engine advances together; no answer depends on it
MAX_TOKENS = 192


@dataclass
class Result:
    """A measured row. `chance` guesses among values of the kind asked, `any_value` among all."""

    name: str
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


@dataclass(frozen=True)
class Tried:
    """What came of one case: the last step reached, its reply, and all replies."""

    last: Example
    reply: Reply
    right: bool
    replies: tuple[Reply, ...]


def try_case(engine: Engine, row: Row, case: tuple[int, tuple[Example, ...]]) -> Tried:
    """The steps of a case up to the first that is wrong."""
    number, chain = case
    replies: list[Reply] = []
    for example in chain:
        reply = engine.generate(
            example.messages,
            tools=example.tools,
            settings={"seed": number, "max_tokens": MAX_TOKENS, "thinking": example.thinking},
        )
        replies.append(reply)
        if not row.scoring(example, reply):
            return Tried(example, reply, False, tuple(replies))
    return Tried(example, reply, True, tuple(replies))


def measure(engine: Engine, row: Row, count: int, seed: str) -> Result:
    """`count` cases of one row, each with a seed of its own."""
    rng = Random(f"{seed}/{row.name}")
    cases = [(number, row.make(rng, row.words)) for number in range(count)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        tried = list(threads.map(partial(try_case, engine, row), cases))
    usages = [reply.usage for each in tried for reply in each.replies]
    steps = sum(usage.denoising_steps for usage in usages)
    right = sum(each.right for each in tried)
    firsts = [chain[0] for _, chain in cases]
    wrong = [each for each in tried if not each.right]
    return Result(
        row.name,
        count,
        right / count,
        wilson(right, count),
        candidates=sum(each.candidates for each in firsts) / count,
        chance=sum(1 / each.candidates for each in firsts) / count,
        any_value=sum(1 / max(each.values, each.candidates) for each in firsts) / count,
        steps_per_canvas=steps / sum(usage.canvases for usage in usages),
        tokens_per_forward=sum(usage.completion_tokens for usage in usages) / steps,
        prompt_tokens=sum(usage.prompt_tokens for usage in usages) / len(usages),
        mistakes=[
            [each.last.messages[-1].text, expected(each.last), given(each.reply)]
            for each in wrong[:KEPT_MISTAKES]
        ],
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return middle - half, middle + half


TABLES: Mapping[str, tuple[Row, ...]] = {"held_out": ROWS, "words": WORD_ROWS}


def measure_all(
    folder: Path, count: int, seed: str, processes: int, only: str = ""
) -> dict[str, Any]:
    """All tables, and what they depend on; `only` keeps rows with this in their names.

    Each row is measured by one process.
    """
    begun = time.monotonic()
    places = [
        (name, number)
        for name, rows in TABLES.items()
        for number, row in enumerate(rows)
        if only in row.name
    ]
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


def _measure_row(folder: Path, table: str, number: int, count: int, seed: str) -> dict[str, Any]:
    with open_engine(str(folder), device="cpu", dtype="float32") as engine:
        return _rounded(measure(engine, TABLES[table][number], count, seed))


def _rounded(result: Result) -> dict[str, Any]:
    values = asdict(result)
    values["interval"] = [round(each, 3) for each in result.interval]
    line = {key: round(v, 3) if isinstance(v, float) else v for key, v in values.items()}
    print(f"{line['exact']:.3f}  {line['steps_per_canvas']:5.2f}  {line['name']}", flush=True)
    return line
