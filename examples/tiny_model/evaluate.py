"""Measure a checkpoint on held-out names, numbers and wordings, and write the results.

    python examples/tiny_model/evaluate.py --model src/dgemma_backend/tiny/checkpoint \\
        --out examples/tiny_model/results/second_edition.json \\
        --card src/dgemma_backend/tiny/MODEL_CARD.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tiny_trainer.evaluation.card import write_results
from tiny_trainer.evaluation.measure import measure_all


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--card", type=Path, help="model card whose tables to rewrite")
    parser.add_argument("--cases", type=int, default=300, help="per row")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", default="evaluation/2")
    parser.add_argument("--only", default="", help="rows with this in their names")
    chosen = parser.parse_args()
    results = measure_all(chosen.model, chosen.cases, chosen.seed, chosen.processes, chosen.only)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if chosen.card:
        write_results(chosen.card, results)


if __name__ == "__main__":
    main()
