"""Puts the measured tables into the model card, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results: written by evaluate.py -->", "<!-- end of results -->"
_HEAD = (
    "| task | n | exact | 95 % | candidates | chance: right kind | chance: any value "
    "| steps per canvas | tokens per forward |",
    "|---|---|---|---|---|---|---|---|---|",
)


def write_results(card: Path, results: dict[str, Any]) -> None:
    """Replace what stands between the marks of `card` by the tables of `results`."""
    before, rest = card.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    rows = results["held_out"]
    parts = [
        BEGIN,
        f"Weights sha256 `{results['weights_sha256'][:16]}…`, {results['arithmetic']}; "
        f"decoding: {results['decoding']}; seed `{results['seed']}`.",
        "",
        "**Held-out names, numbers and wordings**",
        "",
        *table(rows),
        "",
        f"Over these rows: {mean(rows, 'steps_per_canvas'):.1f} denoising steps per canvas, "
        f"{mean(rows, 'tokens_per_forward'):.1f} tokens per forward pass.",
        "",
        "**The same wordings with words seen in training, unseen ones, and other scripts**",
        "",
        *table(results["words"]),
        END,
    ]
    card.write_text(before + "\n".join(parts) + after, encoding="utf-8")


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of Markdown."""
    return [*_HEAD, *map(_line, rows)]


def mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    """The mean of a column."""
    return float(sum(row[key] for row in rows)) / len(rows)


def _line(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    cells = (
        row["name"],
        str(row["n"]),
        f"**{row['exact']:.3f}**",
        f"{low:.2f}-{high:.2f}",
        f"{row['candidates']:.1f}",
        f"{row['chance']:.2f}",
        f"{row['any_value']:.2f}",
        f"{row['steps_per_canvas']:.1f}",
        f"{row['tokens_per_forward']:.1f}",
    )
    return "| " + " | ".join(cells) + " |"
