"""Every kernel against float32 on fresh inputs, and beside its floor."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from dgemma_backend.config import ModelConfig
from dgemma_kernels.self_check import checked

from .bench import Bench
from .cases import Case, Operands, wanted
from .compare import distances, facts, poisoned
from .kernel_cases import attention_cases, kernel_cases
from .matrix_cases import experts_case, linear_cases
from .references import others
from .roofline import Load
from .shapes import KERNEL_FORMATS, toy_shapes

# One token; rows beside a block's edge; several sequences with odd prefixes.
AWKWARD = (Load(1, 1, 0), Load(2, 3, 5), Load(3, 33, 70))
DTYPES = (torch.bfloat16, torch.float32)
_FLOAT32 = 1e-4  # of results in it: products summed in another order, and not in TF32


def check_small(bench: Bench) -> None:
    """Awkward sizes, in every dtype; and the check that an engine makes when it opens."""
    for dtype in DTYPES if bench.cuda else DTYPES[:1]:
        for load in AWKWARD if bench.cuda else AWKWARD[1:2]:
            for case in small_cases(load, dtype):
                if bench.only in case.name and case.kernel not in bench.replaced:
                    bench.clock.check()
                    _check_small(bench, case, dtype)
    if bench.cuda and not bench.only:
        _, problems = checked(bench.tables["bf16"], bench.device, bench.dtype)
        bench.journal.add("check", what="self check", passed=not problems, problems=problems)


def measure_kernels(bench: Bench) -> None:
    """Each at the real sizes: right, and how long it takes."""
    shapes, canvas = bench.shapes, bench.shapes.config.canvas_length
    for batch in shapes.kernel_batches:
        for case in _full_cases(shapes.config, Load(batch, canvas, 0), shapes.prefixes):
            _measure(bench, case)
        if batch == 1:
            for prompt in (0, *shapes.prompts):
                load = Load(1, shapes.piece, prompt)
                for case in attention_cases(shapes.config, load, causal=True):
                    _measure(bench, case)


def small_cases(load: Load, dtype: torch.dtype) -> Iterator[Case]:
    """Sizes that are multiples of nothing but what a 16-byte load asks.

    Products of float32 are left to torch in practice, and take a compiler minutes.
    """
    config = replace(
        toy_shapes().config,
        hidden_size=88,
        vocab_size=777,
        num_experts=5,
        top_k_experts=2,
        moe_intermediate_size=40,
    )
    yield from kernel_cases(config, load)
    for causal in (False, True):
        yield from attention_cases(config, load, causal=causal)
    for form in KERNEL_FORMATS if dtype == torch.bfloat16 else ():
        yield experts_case(config, form, load)
        yield from linear_cases(config, form, load)


def _full_cases(config: ModelConfig, load: Load, prefixes: tuple[int, ...]) -> Iterator[Case]:
    """What weighs most comes first, in case time runs out."""
    for form in KERNEL_FORMATS:
        yield experts_case(config, form, load)
    for prefix in prefixes:
        yield from attention_cases(config, load._replace(prefix=prefix), causal=False)
    yield from kernel_cases(config, load)
    for form in ("bf16", "fp8", "w8a8"):  # INT4 has these in FP8
        yield from linear_cases(config, form, load)


def _check_small(bench: Bench, case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float32:
        limits = {name: min(limit, _FLOAT32) for name, limit in case.allowed.items()}
        case = replace(case, allowed=limits)
    where = {"name": case.name, "load": list(case.load), "dtype": str(dtype).split(".")[-1]}
    if bench.journal.has("check", **where):
        return
    try:
        outcome = _compared(bench, case, case.make(bench.draw(dtype)))
    except Exception as error:  # noqa: BLE001  one kernel must not end the others' checks
        outcome = {"passed": False, "fault": _told(error)}
    bench.journal.add("check", **where, **outcome)
    _go_on(bench, case, outcome)


def _measure(bench: Bench, case: Case) -> None:
    if bench.only not in case.name or case.kernel in bench.replaced:
        return
    bench.clock.check()
    row: dict[str, Any] = {
        "name": case.name.strip(),
        "form": case.form,
        "batch": case.load.rows,
        "tokens": case.load.tokens,
        "prefix": case.load.prefix,
    }
    if bench.journal.has("kernel", **row):
        return
    try:
        operands = case.make(bench.draw())
        row |= _compared(bench, case, operands) | _timed(bench, case, operands)
    except Exception as error:  # noqa: BLE001  as above
        row |= {"passed": isinstance(error, torch.cuda.OutOfMemoryError), "fault": _told(error)}
    bench.journal.add("kernel", **row)
    _go_on(bench, case, row)


def _go_on(bench: Bench, case: Case, row: dict[str, Any]) -> None:
    """After a fault: with an empty device, unless that is lost."""
    if "fault" not in row:
        return
    bench.give_up_if_lost(case.kernel)
    bench.free()


def _compared(bench: Bench, case: Case, operands: Operands) -> dict[str, Any]:
    with poisoned():
        found = case.run(bench.tables[case.form], operands)
    return facts(distances(found, wanted(case, operands), case.allowed))


def _timed(bench: Bench, case: Case, operands: Operands) -> dict[str, Any]:
    table, repeats = bench.tables[case.form], bench.shapes.repeats
    ours = bench.stopwatch.measure(lambda: case.run(table, operands), repeats)
    floor = case.floor_ms(bench.ceilings)
    row = ours.facts() | {
        "floor_ms": float(f"{floor:.4g}"),
        "times_floor": round(ours.median / floor, 2),
        "gb_per_s": round(sum(work.bytes for work in case.works) / ours.median / 1e6),
        "tflops": round(sum(work.flops for work in case.works) / ours.median / 1e9, 1),
    }
    for name, run in others(case).items():
        try:
            theirs = bench.stopwatch.measure(lambda run=run: run(operands), repeats)  # type: ignore[misc]
            row[f"{name}_ms"] = float(f"{theirs.median:.5g}")
        except (RuntimeError, TypeError, NotImplementedError) as error:
            row[f"{name}_fault"] = _told(error)
            bench.free()
    return row


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
