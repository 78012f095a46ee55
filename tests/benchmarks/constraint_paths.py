"""Time of a constraint's part of a canvas, at the real model's vocabulary, on a CPU.

    .venv/bin/python tests/benchmarks/constraint_paths.py --tokenizer FILE \\
        --out tests/benchmarks/results/constraint-paths.json

FILE is the published tokenizer.json (or it packed as .xz). Four schemas are compiled for it; then
each part is timed on a canvas of 256 positions: the reduction of logits to classes, as for a
commit and as for a steering step, the best path and the sweep in it, and what a steering step asks
besides. Logits are random. Times are of the
CPU; where other work shares the machine, read the least: what others cost is only ever added.
"""

import argparse
import json
import lzma
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.constraint import ConstraintCompiler, Limits, Markers, Vocabulary
from dgemma_backend.constraint.decode import best_path
from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.paths_sum import PathSums
from dgemma_kernels import Draws, class_order
from dgemma_kernels.class_statistics import class_maxima_reference, class_statistics_reference

ROWS, VOCABULARY, SEED, TURNS = 256, 262144, 0, 100
STRING: dict[str, Any] = {"type": "string"}
SHORT: dict[str, Any] = {"type": "string", "maxLength": 40}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


SCHEMAS: dict[str, dict[str, Any]] = {
    "name and age": an_object(name=STRING, age={"type": "integer"}),
    "8 fields": an_object(
        id={"type": "integer"},
        name=STRING,
        email=STRING,
        active={"type": "boolean"},
        role={"enum": ["admin", "editor", "viewer"]},
        score={"type": "number"},
        city=STRING,
        tags={"type": "array", "items": STRING, "maxItems": 5},
    ),
    "3 levels, maxLength 40": an_object(
        company=SHORT,
        head=an_object(name=SHORT, address=an_object(street=SHORT, city=SHORT)),
        employees={
            "type": "array",
            "maxItems": 3,
            "items": an_object(name=SHORT, age={"type": "integer"}),
        },
    ),
    "one string, maxLength 200": an_object(text={"type": "string", "maxLength": 200}),
}


def compiler_of(file: Path) -> ConstraintCompiler:
    data = file.read_bytes()
    tokenizer = ChatTokenizer(json.loads(lzma.decompress(data) if file.suffix == ".xz" else data))
    ids = tokenizer.control_ids
    unusable = {*Gemma4Protocol(tokenizer).unusable_ids(), *ids.values()}
    pieces = [None if i in unusable else tokenizer.token_bytes(i) for i in range(VOCABULARY)]
    markers = Markers(
        call_open=ids["<|tool_call>"],
        call_close=ids["<tool_call|>"],
        quote=ids['<|"|>'],
        channel_open=ids["<|channel>"],
        channel_close=ids["<channel|>"],
        ends=(ids["<turn|>"], ids["<eos>"]),
        after_call=(ids["<|tool_response>"],),
        padding=(ids["<pad>"],),
    )
    return ConstraintCompiler(Vocabulary(pieces), markers, limits=Limits(seconds=60))


def timed(work: Callable[[], Any], turns: int = TURNS) -> dict[str, float]:
    """Milliseconds of CPU, the least and the middle ones; the first turn warms up."""
    work()
    spent = []
    for _ in range(turns):
        begun = time.process_time()
        work()
        spent.append(1000 * (time.process_time() - begun))
    return {"least_ms": round(min(spent), 3), "median_ms": round(statistics.median(spent), 3)}


def measured(name: str, compiler: ConstraintCompiler, logits: Tensor) -> dict[str, Any]:
    begun = time.process_time()
    automaton = compiler.schema(SCHEMAS[name]).automaton
    compiled = time.process_time() - begun
    tables = PathTables(automaton)
    order = class_order(torch.from_numpy(automaton.class_of.copy()), automaton.classes)
    uniform = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draws = Draws(torch.full((ROWS,), 0.6), torch.ones(ROWS), uniform)
    found = class_statistics_reference(logits, order, draws)
    maxima, token = found.logit.numpy(), found.token.numpy()
    totals, within = found.log_total.double().numpy(), found.entropy.numpy()
    sums = PathSums(tables, automaton.start, totals, 0)
    ids = best_path(tables, automaton.start, maxima, token, 0)
    assert automaton.advance(automaton.start, ids.tolist()) == automaton.done
    return {
        "schema": name,
        "states": automaton.states,
        "classes": automaton.classes,
        "sets": len(automaton.set_start) - 1,
        "edges": len(automaton.source),
        "compile_cpu_s": round(compiled, 2),
        "tables": timed(lambda: PathTables(automaton), 5),
        "reduce_for_commit": timed(lambda: class_maxima_reference(logits, order), 3),
        "reduce_for_step": timed(lambda: class_statistics_reference(logits, order, draws), 3),
        "set_weights": timed(lambda: tables.set_maxima(maxima)),
        "sweep": timed(swept(tables, maxima)),
        "best_path": timed(lambda: best_path(tables, automaton.start, maxima, token, 0)),
        "backward": timed(lambda: PathSums(tables, automaton.start, totals, 0), 9),
        "sample": timed(lambda: sums.sample(uniform), 9),
        "marginals": timed(sums.marginals, 9),
        "entropies": timed(lambda: sums.entropies(within), 9),
    }


def swept(tables: PathTables, maxima: Any) -> Callable[[], None]:
    """Only the weights and the sweep of `best_path`, without the walk along the path."""
    sets = tables.set_maxima(maxima)
    values = np.empty((len(sets) + 1, tables.automaton.states))
    values[-1] = tables.ends(0)

    def sweep() -> None:
        weights = sets.take(tables.label, axis=1)
        for begin, end in tables.blocks(len(sets), 0):
            tables.sweep(values[begin : end + 1], weights[begin:end], np.add, np.maximum)

    return sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    compiler = compiler_of(given.tokenizer)
    logits = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(SEED)).mul_(6)
    rows = []
    with torch.inference_mode():
        for name in SCHEMAS:
            rows.append(measured(name, compiler, logits))
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python tests/benchmarks/constraint_paths.py",
        "machine": {
            "processor": processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": {n: version(n) for n in ("torch", "numpy")}
        | {"python": platform.python_version()},
        "conditions": {
            "positions": ROWS,
            "vocabulary": VOCABULARY,
            "threads": 1,
            "clock": "CPU",
        },
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


def processor() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return names[0].partition(": ")[2] if names else platform.processor()


if __name__ == "__main__":
    main()
