"""What quantization costs the embedded model: exact answers and steps, format beside format.

    .venv/bin/python tests/benchmarks/quantized_quality.py \\
        --out tests/benchmarks/results/quantized-quality.json

Every format answers the same cases with the same seeds: held-out names and numbers in wordings of
the training data, so that what is counted is copying and form, not luck with a phrase.
"""

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dgemma_backend import open_engine

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "tiny_model"))

from tiny_trainer.evaluation.measure import Result, measure
from tiny_trainer.evaluation.rows import WORD_ROWS

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "fp8": {"dtype": "float32", "quantization": "fp8"},
    "int4": {"dtype": "float32", "quantization": "int4"},
}


def measured(name: str, cases: int) -> dict[str, Any]:
    """All rows in one format, and what its weights take."""
    begun = time.perf_counter()
    with open_engine("tiny", device="cpu", **FORMATS[name]) as engine:
        rows = [measure(engine, row, cases, "quantized/1") for row in WORD_ROWS]
        held = engine.info.weight_bytes
    return {
        "format": name,
        "weight_mb": round(held / 1e6, 2),
        "exact": round(mean(rows, "exact"), 3),
        "steps_per_canvas": round(mean(rows, "steps_per_canvas"), 2),
        "seconds": round(time.perf_counter() - begun),
        "rows": {row.name: [round(row.exact, 3), round(row.steps_per_canvas, 2)] for row in rows},
    }


def mean(rows: list[Result], field: str) -> float:
    return float(sum(getattr(row, field) for row in rows)) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100, help="per task and format")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name in FORMATS:
        found.append(measured(name, given.cases))
        print(json.dumps(found[-1]), flush=True)
    report = {
        "command": f"python tests/benchmarks/quantized_quality.py --cases {given.cases}",
        "arithmetic": "fp8 and int4: weights dequantized, products in float32",
        "versions": {"torch": version("torch"), "python": platform.python_version()},
        "cases_per_task": given.cases,
        "formats": found,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
