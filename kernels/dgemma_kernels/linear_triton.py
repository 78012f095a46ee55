"""Projections: dense weights go to the vendor's library, quantised ones to kernels of ours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.experts_fp8_triton import FLOAT8, decoded_weights, quantize_rows_fp8_triton
from dgemma_kernels.fp8 import Fp8Matrix
from dgemma_kernels.grouped_triton import (
    Rows,
    TileConfig,
    Weights,
    capability_of,
    check_product,
    decode,
    scaled,
    tile_config,
)
from dgemma_kernels.linear_int4_triton import linear_int4_triton
from dgemma_kernels.quantized import Fp4Matrix, Int4Matrix, Matrix

# As in `grouped_triton`, weights are the left side; 64 rows of them keep every processor busy.
ROWS = 64


@triton.jit
def _linear_kernel(
    x_ptr,
    x_scale_ptr,
    weight_ptr,
    scale_ptr,
    out_ptr,
    tokens,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DECODE: tl.constexpr,
):
    token_tiles = tl.cdiv(tokens, BLOCK_T)
    program = tl.program_id(0)  # those with the same weights are neighbours
    token = program % token_tiles * BLOCK_T + tl.arange(0, BLOCK_T)
    readable = tl.minimum(token, tokens - 1)
    row = program // token_tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    weight_row = tl.minimum(row, N - 1).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + readable.to(tl.int64)[None, :] * K + k[:, None]
    weight_ptrs = weight_ptr + weight_row[:, None] * K + k[None, :]
    out = tl.zeros((BLOCK_ROWS, BLOCK_T), tl.float32)
    for first in range(0, K, BLOCK_K):
        inside = k < K - first
        x = tl.load(x_ptrs + first, mask=inside[:, None], other=0.0)
        weight = decode(tl.load(weight_ptrs + first, mask=inside[None, :], other=0.0), x, DECODE)
        out = tl.dot(weight, x, out, "ieee", max_num_imprecise_acc=BLOCK_K)
    out = scaled(out, scale_ptr, weight_row, x_scale_ptr, readable, DECODE)
    out_ptrs = out_ptr + token.to(tl.int64)[None, :] * N + row[:, None]
    tl.store(out_ptrs, out, mask=(token < tokens)[None, :] & (row < N)[:, None])


def linear_fp8_triton(x: Tensor, weight: Fp8Matrix) -> Tensor:
    """As `linear_triton`; weights are widened to the dtype of `x` in the kernel."""
    rows = Rows(x.reshape(-1, x.shape[-1]))
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    return _launch(rows, decoded_weights(weight, capability_of(x.device)), out)


def linear_w8a8_triton(x: Tensor, weight: Fp8Matrix) -> Tensor:
    """As `linear_triton`, with the rows of `x` rounded to float8 first.

    Raises ValueError on devices below compute capability 8.9.
    """
    rows = Rows(*quantize_rows_fp8_triton(x.reshape(-1, x.shape[-1])))
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    return _launch(rows, Weights(weight.values, weight.scale), out)


def _launch(x: Rows, weights: Weights, out: Tensor) -> Tensor:
    check_product(x, weights)
    (rows, columns), tokens = weights.values.shape, x.values.shape[0]
    tiles = linear_tiles(
        tokens,
        x.values.element_size(),
        weights.values.element_size(),
        capability_of(out.device),
    )
    _linear_kernel[(triton.cdiv(rows, tiles.rows) * triton.cdiv(tokens, tiles.tokens),)](
        x.values.contiguous(),
        x.scale,
        weights.values.contiguous(),
        weights.scale,
        out,
        tokens,
        **_constants(rows, columns, tiles, weights.decode),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def linear_tiles(tokens: int, x_bytes: int, weight_bytes: int, capability: int) -> TileConfig:
    """For `tokens` rows: few token tiles, as each decodes the weights again."""
    tile = 32 if tokens <= 32 else 64 if tokens <= 64 else 128
    return tile_config(ROWS, tile, x_bytes, weight_bytes, capability)


def _constants(rows: int, columns: int, tiles: TileConfig, how: str) -> dict[str, Any]:
    return {
        "N": rows,
        "K": columns,
        "BLOCK_ROWS": tiles.rows,
        "BLOCK_T": tiles.tokens,
        "BLOCK_K": tiles.depth,
        "DECODE": how,
    }


LinearFormats = Mapping[type, Callable[[Tensor, Any], Tensor]]
LINEAR_FORMATS: LinearFormats = MappingProxyType(
    {
        Tensor: F.linear,
        Fp8Matrix: linear_fp8_triton,
        Int4Matrix: linear_int4_triton,
        Fp4Matrix: linear_int4_triton,
    }
)
# Activations are rounded too: faster where arithmetic is what takes the time.
W8A8_LINEAR_FORMATS: LinearFormats = MappingProxyType(
    {**LINEAR_FORMATS, Fp8Matrix: linear_w8a8_triton}
)


def linear_triton(x: Tensor, weight: Matrix, formats: LinearFormats = LINEAR_FORMATS) -> Tensor:
    """`x (..., K)`, `weight (N, K)` -> `(..., N)` in the dtype of `x`, summed in float32.

    `formats` says how each kind of matrix is multiplied. Raises TypeError for one it lacks.
    """
    kind = Tensor if isinstance(weight, Tensor) else type(weight)
    if kind not in formats:
        known = ", ".join(sorted(each.__name__ for each in formats))
        raise TypeError(
            f"no Triton kernel multiplies {kind.__name__}, only {known}: "
            f"use the reference, or give a table of formats that has one"
        )
    return formats[kind](x, weight)


def compile_cases(capability: int) -> list[CompileCase]:
    """The largest projection from and to the hidden size, for one token up to many."""
    types = [("fp8", "*bf16", "*fp8e4nv", "cast"), ("w8a8", "*fp8e4nv", "*fp8e4nv", "as_is")]
    if capability < FLOAT8:
        types = [("fp8", "*bf16", "*i8", "bits")]
    return [
        _case(*each, rows, columns, tokens, capability)
        for each in types
        for rows, columns, tokens in ((8192, 2816, 1), (8192, 2816, 64), (2816, 8192, 256))
    ]


def _case(
    name: str,
    x_type: str,
    weight_type: str,
    how: str,
    rows: int,
    columns: int,
    tokens: int,
    capability: int,
) -> CompileCase:
    tiles = linear_tiles(tokens, 2 if how != "as_is" else 1, 1, capability)
    signature = {"x_ptr": x_type, "weight_ptr": weight_type, "out_ptr": "*bf16"}
    signature |= {"scale_ptr": "*fp32", "tokens": "i32"}
    constants = _constants(rows, columns, tiles, how)
    if how == "as_is":
        signature["x_scale_ptr"] = "*fp32"
    else:
        constants["x_scale_ptr"] = None
    title = f"linear, {name}, {columns} to {rows}, {tokens} tokens"
    return CompileCase(
        title, _linear_kernel, signature, constants, tiles.num_warps, tiles.num_stages, matmul=True
    )
