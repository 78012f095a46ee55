"""Every kernel compiles for every target, and the check finds those that should not ship."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from dgemma_kernels.compile_check import MODULES, NVIDIA

KERNELS = Path(__file__).parents[2] / "kernels"

PLANTED = """
import triton
import triton.language as tl
from dgemma_kernels.compile_case import CompileCase

@triton.jit
def product(x_ptr, out_ptr, steps, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    grid = at[:, None] * SIZE + at[None, :]
    acc = tl.zeros((SIZE, SIZE), tl.float32)
    for step in range(steps):
        x = tl.load(x_ptr + step * SIZE * SIZE + grid)
        acc = tl.dot(x, tl.load(x_ptr + step * SIZE * SIZE + grid.trans()), acc)
    tl.store(out_ptr + grid, acc)

@triton.jit
def nonsense(x_ptr, out_ptr):
    x = tl.load(x_ptr)
    asm: tl.constexpr = "nonsense.f32 $0, $1;"
    y = tl.inline_asm_elementwise(asm, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(out_ptr, y)

@triton.jit
def copy(x_ptr, out_ptr):
    tl.store(out_ptr, tl.load(x_ptr))

def compile_cases(capability):
    plain = {"x_ptr": "*fp32", "out_ptr": "*fp32"}
    whole = {**plain, "x_ptr": "*bf16", "steps": "i32"}
    return [
        CompileCase("sound", product, whole, {"SIZE": 64}, 4, 1, True),
        CompileCase("spilling", product, whole, {"SIZE": 128}, 2, 1, True),
        CompileCase("spacious", product, whole, {"SIZE": 64}, 4, 8, True),
        CompileCase("scalar", copy, plain, {}, 1, 1, True),
        CompileCase("misdeclared", copy, {"x_ptr": "*fp32"}, {"SIZE": 1}, 1, 1, False),
        CompileCase("nonsense", nonsense, plain, {}, 1, 1, False),
    ]
"""


def compile_check(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In a process of its own: here kernels are interpreted."""
    folders = [KERNELS, *([path] if path else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-m", "dgemma_kernels.compile_check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def rows_of(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["target"], row["kernel"]): row for row in json.loads(file.read_text())}


def test_every_module_with_kernels_of_its_own_is_checked() -> None:
    sources = (KERNELS / "dgemma_kernels").glob("*_triton.py")
    with_cases = {file.stem for file in sources if "def compile_cases(" in file.read_text()}
    assert {f"dgemma_kernels.{name}" for name in with_cases} == set(MODULES)


@pytest.mark.slow
def test_every_kernel_compiles_for_every_target_without_spills(tmp_path: Path) -> None:
    table = tmp_path / "rows.json"
    done = compile_check("--json", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(table)
    assert {target for target, _ in rows} == {target.name for target in NVIDIA}
    assert all(row["registers"] > 0 and row["spilled"] == 0 for row in rows.values())


@pytest.mark.slow
def test_kernels_that_should_not_ship_are_named_with_their_fault(tmp_path: Path) -> None:
    (tmp_path / "planted_kernels.py").write_text(dedent(PLANTED))
    table, text = tmp_path / "rows.json", tmp_path / "rows.md"
    done = compile_check(
        *("--modules", "planted_kernels,not_there", "--targets", "sm_86,sm_90"),
        *("--json", str(table), "--markdown", str(text)),
        path=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "sm_90 spilling: spills" in done.stdout
    assert len(done.stdout) < 4000  # Triton prints a whole program when ptxas refuses it
    rows = rows_of(table)
    assert rows["sm_90", "sound"]["fault"] == rows["sm_86", "sound"]["fault"] == ""
    assert rows["sm_86", "sound"]["matrix"] == "mma.sync"
    assert rows["sm_86", "spacious"]["fault"].endswith("of shared memory where a block has 101376")
    assert rows["sm_90", "spacious"]["fault"] == ""
    assert rows["sm_90", "spacious"]["matrix"] == "wgmma"
    assert rows["sm_86", "scalar"]["fault"] == "has no matrix instruction"
    assert "disagree about SIZE, out_ptr" in rows["sm_86", "misdeclared"]["fault"]
    assert "nonsense" in rows["sm_86", "nonsense"]["fault"]
    assert rows["sm_86", "not_there"]["fault"] == "there is no such module"
    assert "| sm_90 | sound | 4 | 1 |" in text.read_text()


@pytest.mark.slow
def test_a_module_that_is_not_there_may_be_allowed_and_amd_is_compiled_on_demand(
    tmp_path: Path,
) -> None:
    table = tmp_path / "rows.json"
    modules = "dgemma_kernels.geglu_triton,not_there"
    done = compile_check("--modules", modules, "--amd", "--allow-missing", "--json", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not_there" in done.stdout
    rows = rows_of(table)
    assert rows["gfx942", "geglu 704"]["registers"] > 0
    assert rows["gfx1100", "geglu 704"]["fault"] == ""
