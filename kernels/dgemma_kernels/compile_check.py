"""Compiles every shipped kernel for every GPU it is meant for, on a machine without one.

    python -m dgemma_kernels.compile_check [--targets sm_90,sm_100] [--markdown FILE]

Reads registers, spills, shared memory and the kind of matrix instruction from what came out, and
ends with code 1, the culprit named, if a kernel spills, asks for more shared memory than a block
can have, or should use a matrix instruction and does not.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from dgemma_kernels.compile_case import CompileCase

MODULES = (
    "dgemma_kernels.attention_triton",
    "dgemma_kernels.class_statistics_triton",
    "dgemma_kernels.experts_triton",
    "dgemma_kernels.experts_fp8_triton",
    "dgemma_kernels.experts_int4_triton",
    "dgemma_kernels.geglu_triton",
    "dgemma_kernels.grouped_triton",
    "dgemma_kernels.heads_triton",
    "dgemma_kernels.linear_int4_triton",
    "dgemma_kernels.linear_triton",
    "dgemma_kernels.norm_triton",
    "dgemma_kernels.routing_triton",
    "dgemma_kernels.vocab_triton",
)
ALIGNMENT = 16  # of pointers in bytes, and what divides every size of the model


class Target(NamedTuple):
    """A kind of GPU."""

    name: str
    capability: int  # whose configurations it is given
    shared: int  # bytes a block can have


NVIDIA = (
    Target("sm_80", 80, 166912),
    Target("sm_86", 86, 101376),
    Target("sm_89", 89, 101376),
    Target("sm_90", 90, 232448),
    Target("sm_100", 100, 232448),
    Target("sm_120", 120, 101376),
)
# No kernel is tuned for these: they get the configurations of the smallest NVIDIA target.
AMD = (Target("gfx942", 86, 65536), Target("gfx1100", 86, 65536))
TARGETS = {target.name: target for target in (*NVIDIA, *AMD)}

MATRIX_INSTRUCTIONS = {
    "tcgen05": r"\btcgen05\.mma\b",
    "wgmma": r"\bwgmma\.mma_async\b",
    "mma.sync": r"\bmma\.sync\b",
    "mfma": r"\bv_mfma_",
    "wmma": r"\bv_wmma_",
}

MISSING = "there is no such module"


class Row(NamedTuple):
    """What became of one kernel in one configuration on one target."""

    target: str
    kernel: str
    warps: int = 0
    stages: int = 0
    registers: int = 0
    spilled: int = 0  # bytes of stack a thread
    shared: int = 0  # bytes a block
    matrix: str = ""  # kind of matrix instruction
    fault: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    # Kernels defined under the interpreter cannot be compiled; the workers inherit this.
    os.environ.pop("TRITON_INTERPRET", None)
    rows = check(options.modules, options.targets, options.processes)
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows))
    faults = [row for row in rows if row.fault]
    missing = [row for row in faults if row.fault == MISSING]
    for row in faults:
        sys.stdout.write(f"{row.target} {row.kernel}: {row.fault}\n")
    sys.stdout.write(f"{len(rows) - len(faults)} kernels compiled, {len(faults)} at fault\n")
    return int(len(faults) > (len(missing) if options.allow_missing else 0))


def _parser() -> argparse.ArgumentParser:
    def names(text: str) -> list[str]:
        return text.split(",")

    def targets(text: str) -> list[Target]:
        return [TARGETS[name] for name in text.split(",")]

    parser = argparse.ArgumentParser("dgemma_kernels.compile_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--targets", type=targets, default=NVIDIA, help=", ".join(TARGETS))
    chosen.add_argument(
        "--amd", dest="targets", action="store_const", const=AMD, help="gfx942 and gfx1100"
    )
    parser.add_argument("--modules", type=names, default=MODULES, help="instead of all of them")
    parser.add_argument("--allow-missing", action="store_true", help="modules may not be there yet")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the table there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    return parser


def check(modules: Iterable[str], targets: Iterable[Target], processes: int | None) -> list[Row]:
    """One row for each case of each module on each target, compiled in several processes."""
    spawn = multiprocessing.get_context("spawn")
    jobs = [(module, target) for target in targets for module in modules]
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        counts = list(pool.map(_count, *zip(*jobs, strict=True)))
        rows: list[tuple[Row, Future[Row] | None]] = []
        for (module, target), count in zip(jobs, counts, strict=True):
            if isinstance(count, str):
                rows.append((Row(target.name, module, fault=count), None))
                continue
            for place in range(count):
                compiling = pool.submit(_compile, module, target, place)
                rows.append((Row(target.name, f"{module} {place}"), compiling))
        return [_settled(*row) for row in rows]


def _settled(row: Row, compiling: Future[Row] | None) -> Row:
    try:
        return compiling.result() if compiling else row
    except BrokenProcessPool:
        return row._replace(fault="the compiler died, of this case or of one beside it")


def _count(module: str, target: Target) -> int | str:
    """How many cases a module has, or what is wrong with it."""
    if importlib.util.find_spec(module) is None:
        return MISSING
    try:
        count = len(_cases(module, target))
    except Exception as error:  # noqa: BLE001  the row says what it was
        return f"{type(error).__name__}: {error}"
    return count or "it has no cases"


def _cases(module: str, target: Target) -> list[CompileCase]:
    cases: list[CompileCase] = importlib.import_module(module).compile_cases(target.capability)
    return cases


def _compile(module: str, target: Target, place: int) -> Row:
    row = Row(target.name, f"{module} {place}")
    said = io.StringIO()  # Triton prints the whole PTX when ptxas fails
    try:
        case = _cases(module, target)[place]
        row = row._replace(kernel=case.name, warps=case.num_warps, stages=case.num_stages)
        with contextlib.redirect_stdout(said):
            compiled = _compiled(case, target)
        row = _measured(row, compiled)
        return row._replace(fault=_fault(row, case.matmul, target.shared))
    except Exception as error:  # noqa: BLE001  the row says what it was
        lines = [*str(error).strip().splitlines(), *said.getvalue().splitlines()]
        return row._replace(fault=f"{type(error).__name__}: {' '.join(lines)[:300]}")


def _compiled(case: CompileCase, target: Target) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names: list[str] = case.kernel.arg_names
    known = {**case.signature, **dict.fromkeys(case.constexprs, "constexpr")}
    if set(known) != set(names) or len(known) != len(case.signature) + len(case.constexprs):
        wrong = sorted(set(known) ^ set(names)) or sorted(set(case.signature) & {*case.constexprs})
        raise ValueError(f"the case and the kernel disagree about {', '.join(wrong)}")
    attributes = {
        (place,): [["tt.divisibility", ALIGNMENT]]
        for place, name in enumerate(names)
        if known[name].startswith("*") or known[name] in {"i32", "i64"}
    }
    source = ASTSource(
        case.kernel, {name: known[name] for name in names}, case.constexprs, attributes
    )
    if target.name.startswith("gfx"):
        gpu = GPUTarget("hip", target.name, 64 if target.name.startswith("gfx9") else 32)
    else:
        gpu = GPUTarget("cuda", target.capability, 32)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    return triton.compile(source, target=gpu, options=options)


def _measured(row: Row, compiled: Any) -> Row:
    """With what was read from the machine code."""
    if "amdgcn" in compiled.asm:
        code = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s*(\d+)", code)
        spilled = _number(r"\.private_segment_fixed_size:\s*(\d+)", code)
    else:
        code = compiled.asm["ptx"]
        usage = _resource_usage(compiled.asm["cubin"])
        registers = _number(r"\bREG:(\d+)", usage)
        spilled = _number(r"\bSTACK:(\d+)", usage) + _number(r"\bLOCAL:(\d+)", usage)
    found = [name for name, pattern in MATRIX_INSTRUCTIONS.items() if re.search(pattern, code)]
    return row._replace(
        registers=registers,
        spilled=spilled,
        shared=compiled.metadata.shared,
        matrix="+".join(found),
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern} in what the compiler left")
    return int(found.group(1))


def _resource_usage(cubin: bytes) -> str:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _fault(row: Row, matmul: bool, limit: int) -> str:
    faults = []
    if row.spilled:
        faults.append(f"spills {row.spilled} bytes a thread")
    if row.shared > limit:
        faults.append(f"needs {row.shared} bytes of shared memory where a block has {limit}")
    if matmul and not row.matrix:
        faults.append("has no matrix instruction")
    return "; ".join(faults)


def markdown(rows: Iterable[Row]) -> str:
    """The table, for a report."""
    lines = [
        "| target | kernel | warps | stages | registers | shared | matrix | fault |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = f"{row.warps} | {row.stages} | {row.registers} | {row.shared}"
        lines.append(f"| {row.target} | {row.kernel} | {sizes} | {row.matrix} | {row.fault} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
