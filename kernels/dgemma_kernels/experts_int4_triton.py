"""Experts whose weights are 4-bit integers or floats: the two products of a mixture, grouped.

As in `grouped_triton`: slots sorted by expert, token tiles numbered through, weights on the
left of each product. Both launchers serve `Int4Matrix` (groups of 32 or 64) and `Fp4Matrix`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.four_bit_triton import (
    FORMATS,
    FourBitMatrix,
    case_operands,
    decodes_fast,
    four_bit_tiles,
    multiply,
    packed,
    times_row_scale,
)
from dgemma_kernels.grouped_triton import TileConfig, capability_of, find_tile, most_tiles


@triton.jit
def _gate_up_kernel(
    x_ptr,
    order_ptr,
    offsets_ptr,
    words_ptr,
    scale_ptr,
    row_scale_ptr,
    act_ptr,
    TOP_K: tl.constexpr,
    E: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FORMAT: tl.constexpr,
    FAST: tl.constexpr,
):
    """Rows of `x` are gathered where the slots say, rows of `act` written in sorted order."""
    HALF: tl.constexpr = BLOCK_ROWS // 2  # gate rows of a tile; as many up rows follow them
    ROW_TILES: tl.constexpr = (W + HALF - 1) // HALF
    CHUNKS: tl.constexpr = (D + 63) // 64
    program = tl.program_id(0)
    expert, start, end = find_tile(offsets_ptr, program // ROW_TILES, E, BLOCK_E, BLOCK_T)
    if expert >= E:
        return
    place = start + tl.arange(0, BLOCK_T)
    token = tl.load(order_ptr + tl.minimum(place, end - 1)) // TOP_K
    first = program % ROW_TILES * HALF
    both = tl.arange(0, BLOCK_ROWS)
    gate_row = first + both % HALF
    if W % HALF != 0:
        gate_row = tl.minimum(gate_row, W - 1)
    row = gate_row + both // HALF * W
    expert = expert.to(tl.int64)
    product = multiply(
        words_ptr + expert * (2 * W * CHUNKS * 8),
        scale_ptr + expert * (2 * W * CHUNKS),
        row,
        x_ptr + token.to(tl.int64) * D,
        2 * W,
        D,
        BLOCK_K,
        FORMAT,
        FAST,
    )
    product = times_row_scale(product, row_scale_ptr, expert * (2 * W) + row, FAST)
    gate, up = tl.split(tl.permute(tl.reshape(product, (2, HALF, BLOCK_T)), (1, 2, 0)))
    # gelu_tanh(g) is g * sigmoid(2 y), y = sqrt(2 / pi) * (g + 0.044715 g**3)
    act = gate * tl.sigmoid(1.5957691216057308 * gate * (1 + 0.044715 * gate * gate)) * up
    w = first + tl.arange(0, HALF)
    act_ptrs = act_ptr + place.to(tl.int64)[None, :] * W + w[:, None]
    tl.store(act_ptrs, act, mask=(place < end)[None, :] & (w < W)[:, None])


@triton.jit
def _down_kernel(
    act_ptr,
    order_ptr,
    offsets_ptr,
    words_ptr,
    scale_ptr,
    row_scale_ptr,
    out_ptr,
    E: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FORMAT: tl.constexpr,
    FAST: tl.constexpr,
):
    """Rows of `act` are read in sorted order, rows of `out` written where the slots say."""
    ROW_TILES: tl.constexpr = (D + BLOCK_ROWS - 1) // BLOCK_ROWS
    CHUNKS: tl.constexpr = (W + 63) // 64
    program = tl.program_id(0)
    expert, start, end = find_tile(offsets_ptr, program // ROW_TILES, E, BLOCK_E, BLOCK_T)
    if expert >= E:
        return
    place = start + tl.arange(0, BLOCK_T)
    readable = tl.minimum(place, end - 1)
    d = program % ROW_TILES * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row = d
    if D % BLOCK_ROWS != 0:
        row = tl.minimum(d, D - 1)
    expert = expert.to(tl.int64)
    out = multiply(
        words_ptr + expert * (D * CHUNKS * 8),
        scale_ptr + expert * (D * CHUNKS),
        row,
        act_ptr + readable.to(tl.int64) * W,
        D,
        W,
        BLOCK_K,
        FORMAT,
        FAST,
    )
    out = times_row_scale(out, row_scale_ptr, expert * D + row, FAST)
    slot = tl.load(order_ptr + readable)
    out_ptrs = out_ptr + slot.to(tl.int64)[None, :] * D + d[:, None]
    tl.store(out_ptrs, out, mask=(place < end)[None, :] & (d < D)[:, None])


def gate_up_int4_triton(
    x: Tensor, order: Tensor, offsets: Tensor, matrix: FourBitMatrix, top_k: int
) -> Tensor:
    """`x (T, D)`, matrix `(E, 2W, D)`, gate rows first -> `(S, W)` activations, sorted by expert.

    `order` int32 `(S,)` holds the slots sorted by expert, slot `token * top_k + choice`;
    `offsets` int32 `(E + 1,)` where each expert's slots begin and the last one's end. Returns
    `gelu_tanh(gate) * up` in the dtype of `x`. Raises ValueError if shapes do not match.
    """
    experts, twice, dim = _checked(x, matrix)
    act = x.new_empty(order.shape[0], twice // 2)
    sizes = {"E": experts, "W": twice // 2, "D": dim, "TOP_K": top_k}
    return _launch(_gate_up_kernel, (x, order, offsets, act), matrix, sizes)


def down_int4_triton(act: Tensor, order: Tensor, offsets: Tensor, matrix: FourBitMatrix) -> Tensor:
    """`act (S, W)` sorted by expert, matrix `(E, D, W)` -> `(S, D)`, each row at its slot.

    `order` and `offsets` as for `gate_up_int4_triton`. Raises ValueError if shapes do not match.
    """
    experts, dim, width = _checked(act, matrix)
    out = act.new_empty(order.shape[0], dim)
    sizes = {"E": experts, "W": width, "D": dim}
    return _launch(_down_kernel, (act, order, offsets, out), matrix, sizes)


def _checked(x: Tensor, matrix: FourBitMatrix) -> torch.Size:
    if len(matrix.shape) != 3 or x.ndim != 2 or x.shape[1] != matrix.shape[2]:
        raise ValueError(
            f"cannot multiply {tuple(x.shape)} by experts of shape {tuple(matrix.shape)}: "
            f"give rows of as many columns, and a matrix (experts, N, K)"
        )
    return matrix.shape


def _launch(
    kernel: Any,
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    matrix: FourBitMatrix,
    sizes: dict[str, int],
) -> Tensor:
    x, order, offsets, out = operands
    experts, rows, columns = matrix.shape
    tiles = expert_tiles(len(out), (experts, rows, columns), capability_of(x.device))
    parts = packed(matrix)
    grid = (most_tiles(len(out), experts, tiles.tokens) * triton.cdiv(rows, tiles.rows),)
    kernel[grid](
        x.contiguous(),
        order,
        offsets,
        parts.words,
        parts.scale,
        parts.row_scale,
        out,
        **sizes,
        **_constants(tiles, experts, parts.format, decodes_fast(x)),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def expert_tiles(slots: int, shape: tuple[int, ...], capability: int) -> TileConfig:
    """For `slots` tokens at matrices of `shape (E, N, K)`: how their product is cut up."""
    experts, rows, columns = shape
    mean = slots / experts
    tokens = 32 if mean <= 24 else 64  # more take the registers that decoding needs
    return four_bit_tiles(rows, columns, tokens, capability)


def _constants(tiles: TileConfig, experts: int, form: str, fast: bool) -> dict[str, Any]:
    return {
        "BLOCK_E": triton.next_power_of_2(experts),
        "BLOCK_ROWS": tiles.rows,
        "BLOCK_T": tiles.tokens,
        "BLOCK_K": tiles.depth,
        "FORMAT": form,
        "FAST": fast,
    }


def compile_cases(capability: int) -> list[CompileCase]:
    """All formats, for one canvas and for four."""
    return [
        _case(kernel, form, tokens, capability)
        for kernel in (_gate_up_kernel, _down_kernel)
        for form in FORMATS
        for tokens in (256, 1024)
    ]


def _case(kernel: Any, form: str, tokens: int, capability: int) -> CompileCase:
    sizes = {"E": 128, "W": 704, "D": 2816}
    gate_up = kernel is _gate_up_kernel
    shape = (128, 1408, 2816) if gate_up else (128, 2816, 704)
    tiles = expert_tiles(tokens * 8, shape, capability)
    signature, constants = case_operands(form)
    signature |= dict.fromkeys(("order_ptr", "offsets_ptr"), "*i32")
    signature |= dict.fromkeys(("x_ptr", "act_ptr") if gate_up else ("act_ptr", "out_ptr"), "*bf16")
    constants |= sizes | _constants(tiles, sizes["E"], form, fast=True)
    if gate_up:
        constants["TOP_K"] = 8
    title = f"{'gate_up' if gate_up else 'down'}, {form}, {tokens} tokens"
    return CompileCase(
        title, kernel, signature, constants, tiles.num_warps, tiles.num_stages, matmul=True
    )
