"""A mixture of experts in four launches: sort slots, gate and up, down, weighted sum."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.experts_fp8_triton import (
    down_fp8_triton,
    down_w8a8_triton,
    gate_up_fp8_triton,
    gate_up_w8a8_triton,
)
from dgemma_kernels.experts_int4_triton import down_int4_triton, gate_up_int4_triton
from dgemma_kernels.fp8 import Fp8Matrix
from dgemma_kernels.grouped_triton import Rows, Weights, launch_down, launch_gate_up
from dgemma_kernels.quantized import Fp4Matrix, Int4Matrix, Matrix
from dgemma_kernels.routing_triton import sort_slots_triton

COMBINE_BLOCK = 1024


def gate_up_triton(
    x: Tensor, order: Tensor, offsets: Tensor, gate_up: Tensor, top_k: int
) -> Tensor:
    """`x (T, D)`, `gate_up (E, 2W, D)` -> `gelu_tanh(gate) * up`, `(T * top_k, W)`.

    `order, offsets` are those of `sort_slots_triton`; row `i` belongs to slot `order[i]`. The
    first `W` rows of each matrix are the gate's. Summed in float32, rounded once.
    """
    out = x.new_empty((len(order), gate_up.shape[1] // 2))
    return launch_gate_up(Rows(x), order, offsets, Weights(gate_up), out, top_k)


def down_triton(act: Tensor, order: Tensor, offsets: Tensor, down: Tensor) -> Tensor:
    """`act (S, W)` in the order of `order`, `down (E, D, W)` -> `(S, D)`, row `s` of slot `s`."""
    out = act.new_empty((len(order), down.shape[1]))
    return launch_down(Rows(act), order, offsets, Weights(down), out)


@triton.jit
def _combine_kernel(
    by_slot_ptr, weights_ptr, out_ptr, TOP_K: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for j in tl.static_range(TOP_K):
        slot = token * TOP_K + j
        row = tl.load(by_slot_ptr + slot * D + d, mask=d < D, other=0.0).to(tl.float32)
        total += tl.load(weights_ptr + slot) * row
    tl.store(out_ptr + token * D + d, total, mask=d < D)


def combine_triton(by_slot: Tensor, weights: Tensor) -> Tensor:
    """`by_slot (T * k, D)`, `weights (T, k)` float32 -> `(T, D)`: each token's weighted sum.

    Summed in float32 in the order of the slots, rounded once.
    """
    (tokens, top_k), dim = weights.shape, by_slot.shape[1]
    out = by_slot.new_empty((tokens, dim))
    _combine_kernel[(tokens, triton.cdiv(dim, COMBINE_BLOCK))](
        by_slot.contiguous(),
        weights.contiguous(),
        out,
        TOP_K=top_k,
        D=dim,
        BLOCK=COMBINE_BLOCK,
        num_warps=4,
    )
    return out


class ExpertFormat(NamedTuple):
    """The two products for one kind of matrix, called as `gate_up_triton` and `down_triton`."""

    gate_up: Callable[[Tensor, Tensor, Tensor, Any, int], Tensor]
    down: Callable[[Tensor, Tensor, Tensor, Any], Tensor]


Formats = Mapping[type, ExpertFormat]
FORMATS: Formats = MappingProxyType(
    {
        Tensor: ExpertFormat(gate_up_triton, down_triton),
        Fp8Matrix: ExpertFormat(gate_up_fp8_triton, down_fp8_triton),
        Int4Matrix: ExpertFormat(gate_up_int4_triton, down_int4_triton),
        Fp4Matrix: ExpertFormat(gate_up_int4_triton, down_int4_triton),
    }
)
# Activations are rounded too: faster where arithmetic is what takes the time.
W8A8_FORMATS: Formats = MappingProxyType(
    {**FORMATS, Fp8Matrix: ExpertFormat(gate_up_w8a8_triton, down_w8a8_triton)}
)


def experts_triton(
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up: Matrix,
    down: Matrix,
    formats: Formats = FORMATS,
) -> Tensor:
    """As `experts_reference`: `x (T, D)`, `weights, experts (T, k)` -> `(T, D)`.

    `gate_up` is `(E, 2W, D)`, `down` is `(E, D, W)`; `formats` says how each kind of matrix is
    multiplied. Nothing waits for the device. Raises TypeError for a kind that `formats` lacks,
    ValueError for shapes that do not fit.
    """
    order, offsets = sort_slots_triton(experts, gate_up.shape[0])
    act = _format(gate_up, formats).gate_up(x, order, offsets, gate_up, experts.shape[1])
    by_slot = _format(down, formats).down(act, order, offsets, down)
    return combine_triton(by_slot, weights)


def _format(matrix: Matrix, formats: Formats) -> ExpertFormat:
    kind = Tensor if isinstance(matrix, Tensor) else type(matrix)
    if kind not in formats:
        known = ", ".join(sorted(each.__name__ for each in formats))
        raise TypeError(
            f"no Triton kernel multiplies experts of {kind.__name__}, only {known}: "
            f"use the reference, or give a table of formats that has one"
        )
    return formats[kind]


def compile_cases(capability: int) -> list[CompileCase]:
    """The weighted sum; the products are cases of `grouped_triton`."""
    return [
        CompileCase(
            "combine",
            _combine_kernel,
            {"by_slot_ptr": "*bf16", "weights_ptr": "*fp32", "out_ptr": "*bf16"},
            {"TOP_K": 8, "D": 2816, "BLOCK": COMBINE_BLOCK},
            num_warps=4,
            num_stages=3,
            matmul=False,
        )
    ]
