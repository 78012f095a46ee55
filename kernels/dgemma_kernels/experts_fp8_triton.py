"""Experts with float8 (e4m3) weights: products in the activations' type, or in float8 too."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.fp8 import E4M3_MAX, Fp8Matrix
from dgemma_kernels.grouped_triton import (
    Rows,
    Weights,
    capability_of,
    grouped_cases,
    launch_down,
    launch_gate_up,
)

FLOAT8 = 89  # the first compute capability whose matrix units and casts know e4m3


def gate_up_fp8_triton(
    x: Tensor, order: Tensor, offsets: Tensor, gate_up: Fp8Matrix, top_k: int
) -> Tensor:
    """As `gate_up_triton`; weights are widened to the dtype of `x` in the kernel."""
    out = x.new_empty((len(order), gate_up.shape[1] // 2))
    weights = decoded_weights(gate_up, capability_of(x.device))
    return launch_gate_up(Rows(x), order, offsets, weights, out, top_k)


def down_fp8_triton(act: Tensor, order: Tensor, offsets: Tensor, down: Fp8Matrix) -> Tensor:
    """As `down_triton`; weights are widened to the dtype of `act` in the kernel."""
    out = act.new_empty((len(order), down.shape[1]))
    weights = decoded_weights(down, capability_of(act.device))
    return launch_down(Rows(act), order, offsets, weights, out)


def decoded_weights(matrix: Fp8Matrix, capability: int) -> Weights:
    """For kernels that widen weights: as float8 where there is that type, else as bytes."""
    if capability >= FLOAT8:
        return Weights(matrix.values, matrix.scale, "cast")
    return Weights(matrix.values.view(torch.int8), matrix.scale, "bits")


def gate_up_w8a8_triton(
    x: Tensor, order: Tensor, offsets: Tensor, gate_up: Fp8Matrix, top_k: int
) -> Tensor:
    """As `gate_up_triton`, with the rows of `x` rounded to float8 first.

    Raises ValueError on devices below compute capability 8.9, as `quantize_rows_fp8_triton`.
    """
    out = x.new_empty((len(order), gate_up.shape[1] // 2))
    rows = Rows(*quantize_rows_fp8_triton(x))
    weights = Weights(gate_up.values, gate_up.scale)
    return launch_gate_up(rows, order, offsets, weights, out, top_k)


def down_w8a8_triton(act: Tensor, order: Tensor, offsets: Tensor, down: Fp8Matrix) -> Tensor:
    """As `down_triton`, with the rows of `act` rounded to float8 first.

    Raises ValueError on devices below compute capability 8.9, as `quantize_rows_fp8_triton`.
    """
    out = act.new_empty((len(order), down.shape[1]))
    rows = Rows(*quantize_rows_fp8_triton(act))
    return launch_down(rows, order, offsets, Weights(down.values, down.scale), out)


@triton.jit
def _quantize_rows_kernel(
    x_ptr,
    values_ptr,
    scale_ptr,
    K: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    top = tl.max(tl.abs(x), 0)
    scale = tl.where(top == 0, 1.0, top / MOST)
    tl.store(scale_ptr + row, scale)
    values = tl.clamp(x / scale, -MOST, MOST)  # the quotient may round past the largest float8
    tl.store(values_ptr + row * K + k, values.to(tl.float8e4nv), mask=k < K)


def quantize_rows_fp8_triton(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x (R, K)` -> `values (R, K)` float8_e4m3fn and `scale (R,)` float32.

    `values * scale` is near `x`. The largest of a row becomes 448, or -448; a row of zeros has
    scale 1. Raises ValueError on devices below compute capability 8.9.
    """
    if (capability := capability_of(x.device)) < FLOAT8:
        raise ValueError(
            f"{x.device} has compute capability {capability / 10}, and float8 activations need "
            f"8.9: use gate_up_fp8_triton and down_fp8_triton, which only need float8 weights"
        )
    rows, columns = x.shape
    values = x.new_empty((rows, columns), dtype=torch.float8_e4m3fn)
    scale = x.new_empty((rows,), dtype=torch.float32)
    block = triton.next_power_of_2(columns)
    _quantize_rows_kernel[(rows,)](
        x.contiguous(), values, scale, K=columns, MOST=E4M3_MAX, BLOCK=block, num_warps=4
    )
    return values, scale


def compile_cases(capability: int) -> list[CompileCase]:
    """Products with float8 weights, and where there is float8 arithmetic those with it."""
    if capability < FLOAT8:
        return grouped_cases("fp8", "bf16", "i8", "bits", capability)
    return [
        *grouped_cases("fp8", "bf16", "fp8e4nv", "cast", capability),
        *grouped_cases("w8a8", "fp8e4nv", "fp8e4nv", "as_is", capability),
        *(_quantize_rows_case(columns) for columns in (2816, 704)),
    ]


def _quantize_rows_case(columns: int) -> CompileCase:
    return CompileCase(
        f"quantize rows of {columns}",
        _quantize_rows_kernel,
        {"x_ptr": "*bf16", "values_ptr": "*fp8e4nv", "scale_ptr": "*fp32"},
        {"K": columns, "MOST": E4M3_MAX, "BLOCK": triton.next_power_of_2(columns)},
        num_warps=4,
        num_stages=3,
        matmul=False,
    )
