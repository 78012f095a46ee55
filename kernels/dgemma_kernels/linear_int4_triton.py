"""Projections whose weights are 4-bit integers or floats."""

from typing import Any

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
from dgemma_kernels.grouped_triton import TileConfig, capability_of


@triton.jit
def _linear_kernel(
    x_ptr,
    words_ptr,
    scale_ptr,
    row_scale_ptr,
    out_ptr,
    tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FORMAT: tl.constexpr,
    FAST: tl.constexpr,
):
    token_tiles = tl.cdiv(tokens, BLOCK_T)
    program = tl.program_id(0)  # those with the same weights are neighbours
    token = program % token_tiles * BLOCK_T + tl.arange(0, BLOCK_T)
    readable = tl.minimum(token, tokens - 1)
    n = program // token_tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row = n
    if N % BLOCK_ROWS != 0:
        row = tl.minimum(n, N - 1)
    x_row_ptrs = x_ptr + readable.to(tl.int64) * K
    out = multiply(words_ptr, scale_ptr, row, x_row_ptrs, N, K, BLOCK_K, FORMAT, FAST)
    out = times_row_scale(out, row_scale_ptr, row, FAST)
    out_ptrs = out_ptr + token.to(tl.int64)[None, :] * N + n[:, None]
    tl.store(out_ptrs, out, mask=(token < tokens)[None, :] & (n < N)[:, None])


def linear_int4_triton(x: Tensor, weight: FourBitMatrix) -> Tensor:
    """`x (..., K)`, `weight (N, K)` -> `(..., N)` in the dtype of `x`, summed in float32.

    Raises ValueError if shapes do not match.
    """
    if len(weight.shape) != 2 or x.shape[-1:] != weight.shape[-1:]:
        raise ValueError(
            f"cannot multiply {tuple(x.shape)} by a matrix of shape {tuple(weight.shape)}: "
            f"give x of shape (..., K) and one matrix (N, K)"
        )
    rows, columns = weight.shape
    flat = x.reshape(-1, columns).contiguous()
    out = x.new_empty((*x.shape[:-1], rows))
    tokens = flat.shape[0]
    tiles = linear_tiles(tokens, rows, columns, capability_of(x.device))
    parts = packed(weight)
    _linear_kernel[(triton.cdiv(rows, tiles.rows) * triton.cdiv(tokens, tiles.tokens),)](
        flat,
        parts.words,
        parts.scale,
        parts.row_scale,
        out,
        tokens,
        **_constants(rows, columns, tiles, parts.format, decodes_fast(x)),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def linear_tiles(tokens: int, rows: int, columns: int, capability: int) -> TileConfig:
    """For `tokens` rows of `x`: few token tiles, as each decodes the weights again."""
    return four_bit_tiles(rows, columns, 32 if tokens <= 32 else 64, capability)


def _constants(rows: int, columns: int, tiles: TileConfig, form: str, fast: bool) -> dict[str, Any]:
    return {
        "N": rows,
        "K": columns,
        "BLOCK_ROWS": tiles.rows,
        "BLOCK_T": tiles.tokens,
        "BLOCK_K": tiles.depth,
        "FORMAT": form,
        "FAST": fast,
    }


def compile_cases(capability: int) -> list[CompileCase]:
    """The largest projections from and to the hidden size, for a few tokens and for many."""
    return [
        _case(form, rows, columns, tokens, capability)
        for form in FORMATS
        for rows, columns, tokens in ((8192, 2816, 1), (2816, 8192, 256))
    ]


def _case(form: str, rows: int, columns: int, tokens: int, capability: int) -> CompileCase:
    tiles = linear_tiles(tokens, rows, columns, capability)
    signature, constants = case_operands(form)
    signature |= {"x_ptr": "*bf16", "out_ptr": "*bf16", "tokens": "i32"}
    constants |= _constants(rows, columns, tiles, form, fast=True)
    title = f"linear, {form}, {columns} to {rows}, {tokens} tokens"
    return CompileCase(
        title, _linear_kernel, signature, constants, tiles.num_warps, tiles.num_stages, matmul=True
    )
