"""The rows of a run as one JSON document, and as a table of at most 40 lines."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .journal import Row
from .plan import GOAL_INT4_GB, GOAL_TIMES_FLOOR

LINES = 40
_FORMS = ("bf16", "fp8", "w8a8", "int4")
_MEANINGLESS = "No GPU: kernels were interpreted, and no time below means anything."


def write_report(rows: Sequence[Row], folder: Path) -> str:
    """Write `gpu-<device>.json` and `.md` there; returns the table."""
    machine = first(rows, "machine") or {}
    table = markdown(rows)
    document = {
        "command": "python tests/benchmarks/gpu.py",
        "machine": {k: v for k, v in machine.items() if k not in ("kind", "phase")},
        "goals": [{"goal": goal, "reached": reached} for goal, reached in goals(rows)],
        "rows": [row for row in rows if row["kind"] != "machine"],
    }
    name = re.sub(r"[^a-z0-9]+", "-", str(machine.get("device", "unknown")).lower()).strip("-")
    name = f"gpu-{'toy-' if machine.get('toy') else ''}{name}"
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The table; kernels fill what lines the rest leaves."""
    lines = [
        *_heading(rows),
        "",
        *_step_table(rows),
        "",
        *(f"- {goal}: {reached}" for goal, reached in goals(rows)),
        "",
        *_speed_table(rows),
    ]
    left = LINES - len(lines) - 1
    kernels = _kernel_table(rows, left)
    return "\n".join([*lines, "", *kernels] if kernels else lines)


def goals(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was to be reached, and what was; one canvas after the shortest prefix."""
    found = []
    if _without_gpu(rows):
        rows = []
    for form in ("bf16", "fp8", "int4"):
        ratio = _best_step(rows, form, "times_floor")
        goal = f"{form} step within {GOAL_TIMES_FLOOR} of its floor"
        found.append((goal, _judged(ratio, GOAL_TIMES_FLOOR, "times the floor")))
    peak = _best_step(rows, "int4", "peak_gb")
    goal = f"INT4 under {GOAL_INT4_GB:.0f} GB"
    return [*found, (goal, _judged(peak, GOAL_INT4_GB, "GB at the peak"))]


def first(rows: Iterable[Row], kind: str, **facts: Any) -> Row | None:
    wanted = {"kind": kind, **facts}
    return next((row for row in rows if wanted.items() <= row.items()), None)


def of_kind(rows: Iterable[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _judged(value: float | None, limit: float, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:.2f} {unit}, {'reached' if value <= limit else 'missed'}"


def _best_step(rows: Sequence[Row], form: str, fact: str) -> float | None:
    steps = [row for row in _steps(rows, form, 1) if row["how"] in ("graph", "eager")]
    if not steps:
        return None
    shortest = min(row["prefix"] for row in steps)
    row = next(row for row in steps if row["prefix"] == shortest)
    value = row[fact]
    return None if value is None else float(value)


def _steps(rows: Sequence[Row], form: str, batch: int) -> list[Row]:
    steps = of_kind(rows, "step")
    return [r for r in steps if r["form"] == form and r["batch"] == batch and "ms" in r]


def _heading(rows: Sequence[Row]) -> list[str]:
    machine, ceilings = first(rows, "machine") or {}, first(rows, "ceilings") or {}
    model = "A toy of DiffusionGemma" if machine.get("toy") else "DiffusionGemma"
    lines = [f"# {model} on {machine.get('device', 'an unknown device')}", ""]
    if _without_gpu(rows):
        lines[1] = _MEANINGLESS
    names = ("torch", "triton", "transformers")
    versions = ", ".join(f"{name} {machine.get(name)}" for name in names)
    rates = "ceilings not measured"
    if ceilings:
        rates = (
            f"measured ceilings {ceilings['tb_per_s']} TB/s, {ceilings['bf16_tflops']} bf16 and "
            f"{ceilings['fp8_tflops']} FP8 TFLOP/s"
        )
    lines.append(f"{versions}; {rates}.")
    judged = [row for row in rows if "passed" in row]
    failed = [_title(row) for row in judged if not row["passed"]]
    says = f"{len(judged) - len(failed)} checks passed, {len(failed)} failed"
    lines.append(says + (f": {'; '.join(failed[:6])}." if failed else "."))
    troubles = [
        f"{row['phase'] or 'run'} {row['kind']} ({row.get('why') or row.get('suspect') or ''})"
        for row in rows
        if row["kind"] in ("cut", "error", "skipped", "lost", "died", "ended")
    ]
    if troubles:
        lines.append(f"Not whole: {'; '.join(troubles)[:400]}.")
    return lines


def _without_gpu(rows: Sequence[Row]) -> bool:
    return (first(rows, "machine") or {}).get("gb") is None


def _title(row: Row) -> str:
    name = row.get("what") or row.get("name") or row["kind"]
    rest = [str(row[key]) for key in ("form", "batch", "load", "dtype") if key in row]
    return " ".join([str(name).strip(), *rest])


def _step_table(rows: Sequence[Row]) -> list[str]:
    """A row for each format and batch, a column for each prefix."""
    steps = [row for row in of_kind(rows, "step") if "ms" in row]
    prefixes = sorted({row["prefix"] for row in steps})
    if not steps:
        return ["No step was measured."]
    head = ["step, ms (times the floor)", "batch", *(f"after {p}" for p in prefixes)]
    lines = _table_head([*head, "launch by launch", "transformers", "peak GB"])
    for form in _FORMS:
        for batch in sorted({row["batch"] for row in steps}):
            mine = _steps(rows, form, batch)
            if not mine:
                continue
            ours = {r["prefix"]: r for r in mine if r["how"] != "transformers"}
            graphs = {r["prefix"]: r for r in mine if r["how"] == "graph"}
            cells = [
                f"{row['ms']:.2f} ({row['times_floor']:.2f})" if row else ""
                for prefix in prefixes
                for row in [graphs.get(prefix) or ours.get(prefix)]
            ]
            eager = _cell(mine, prefixes[0], "eager")
            theirs = _cell(mine, prefixes[0], "transformers")
            peaks = [r["peak_gb"] for r in ours.values() if r["peak_gb"] is not None]
            peak = f"{max(peaks):.1f}" if peaks else ""
            lines.append(_line([form, batch, *cells, eager, theirs, peak]))
    return lines


def _cell(rows: Sequence[Row], prefix: int, how: str) -> str:
    row = next((r for r in rows if r["prefix"] == prefix and r["how"] == how), None)
    return f"{row['ms']:.2f}" if row else ""


def _speed_table(rows: Sequence[Row]) -> list[str]:
    """A row for each format: one canvas by its steps, first text, and one token at a time."""
    speeds = [row for row in of_kind(rows, "speed") if row["batch"] == 1]
    if not speeds:
        return ["No speed was measured."]
    counts = sorted({row["steps"] for row in speeds})
    texts = sorted({row["prompt"] for row in of_kind(rows, "first_text")})
    head = ["tokens/s of one canvas", *(f"{n} steps" for n in counts)]
    head += [f"first draft after {p}, ms" for p in texts]
    lines = _table_head([*head, "one at a time: ms (tokens/s)", "canvas is faster"])
    for form in _FORMS:
        mine = {row["steps"]: row for row in speeds if row["form"] == form}
        if not mine:
            continue
        drafts = [first(rows, "first_text", form=form, prompt=p) for p in texts]
        token = first(rows, "token", form=form) or {}
        alone = f"{token['ms']:.2f} ({token['tokens_per_s']:.0f})" if token else ""
        faster = token.get("canvas_is_faster", {})
        lines.append(
            _line(
                [
                    form,
                    *(f"{mine[n]['tokens_per_s']:.0f}" if n in mine else "" for n in counts),
                    *(f"{row['draft_ms']:.1f}" if row else "" for row in drafts),
                    alone,
                    ", ".join(f"{times}x at {steps}" for steps, times in faster.items()),
                ]
            )
        )
    return lines


def _kernel_table(rows: Sequence[Row], left: int) -> list[str]:
    """Of one canvas, those furthest from their floor in time; the others are in the JSON."""
    kernels = [row for row in of_kind(rows, "kernel") if row["batch"] == 1 and "ms" in row]
    kernels.sort(key=lambda row: row["floor_ms"] - row["ms"])
    if left < 4 or not kernels:
        return []
    lines = _table_head(["kernel, one canvas", "ms", "floor", "times", "GB/s", "torch, ms"])
    for row in kernels[: left - 2]:
        name = f"{row['name']} after {row['prefix']}" if row["prefix"] else row["name"]
        others = [row.get(f"{key}_ms") for key in ("torch", "grouped_mm", "scaled_mm")]
        other = next((f"{ms:.3f}" for ms in others if ms is not None), "")
        figures = [f"{row['ms']:.3f}", f"{row['floor_ms']:.3f}", row["times_floor"]]
        lines.append(_line([name, *figures, row["gb_per_s"], other]))
    return lines


def _table_head(cells: Sequence[object]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
