"""Products with 4-bit weights, decoded in registers on their way into the matrix unit.

A tile is some rows by whole chunks of 64 columns (`interleave` draws a chunk). Its words decode
quarter by quarter, two neighbouring columns at a time and in the order in which a matrix unit
takes a left operand from registers: the four quarters are joined without moving anything. Group
scales multiply the decoded weights. That costs as much as scaling the sum of each group (half an
instruction a weight), and lets one step cover several groups.

On an NVIDIA GPU pairs of bfloat16 are made by inline PTX. Elsewhere, in the interpreter, and for
other activations, the plain twin computes the same weights from the same words.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.fp4 import Fp4Matrix
from dgemma_kernels.grouped_triton import TileConfig, tile_memory
from dgemma_kernels.int4 import Int4Matrix
from dgemma_kernels.interleave import CHUNK

FourBitMatrix = Int4Matrix | Fp4Matrix

# Formats: how codes and scales are encoded. The number after int4 is the group.
FORMATS = ("int4_64", "int4_32", "fp4")
INT4_64, INT4_32, FP4 = (tl.constexpr(form) for form in FORMATS)
CHUNK_COLUMNS = tl.constexpr(CHUNK)


class Packed(NamedTuple):
    """A 4-bit matrix as kernels read it."""

    words: Tensor  # int32 (..., N, chunks * 8)
    scale: Tensor  # (..., chunks, N): bfloat16, or int32 holding all scales of a chunk
    row_scale: Tensor | None  # float32 (..., N)
    format: str


def packed(matrix: FourBitMatrix) -> Packed:
    """The parts of `matrix`, the scales of a chunk seen as one number."""
    row_scale = None
    if isinstance(matrix, Fp4Matrix):
        form, row_scale = FP4.value, matrix.row_scale.contiguous()
    else:
        form = INT4_64.value if matrix.group == CHUNK else INT4_32.value
    scale = matrix.scale.contiguous()
    if form != INT4_64.value:
        scale = scale.view(torch.int32)
    return Packed(matrix.packed.contiguous(), scale, row_scale, form)


def decodes_fast(x: Tensor) -> bool:
    """Whether the PTX decoder serves activations such as `x`."""
    nvidia = x.is_cuda and torch.version.hip is None
    return nvidia and x.dtype == torch.bfloat16 and not triton.knobs.runtime.interpret


def four_bit_tiles(rows: int, columns: int, tokens: int, capability: int) -> TileConfig:
    """For a matrix `(rows, columns)`, and `tokens` columns of the other operand in a tile.

    16384 weights a step: then scales come 4 bytes a thread, the least an asynchronous copy takes.
    """
    tall = tokens <= 32 and columns % 128 != 0 and rows % 256 == 0
    height, depth = (256, 64) if tall else (128, 128)
    words, scales, x = height * depth // 2, height * depth // CHUNK * 4, tokens * depth * 2
    stages = min(4, max(2, tile_memory(capability) // (words + scales + x)))
    if not 90 <= capability < 120:
        stages += 1  # mma.sync frees a step's memory before the next copies are asked for
    return TileConfig(height, tokens, depth, num_warps=4, num_stages=stages)


def case_operands(form: str) -> tuple[dict[str, str], dict[str, Any]]:
    """For a compile case: types of a matrix's parts, and those that are not there."""
    signature = {"words_ptr": "*i32", "scale_ptr": "*bf16" if form == INT4_64.value else "*i32"}
    if form != FP4.value:
        return signature, {"row_scale_ptr": None}
    return signature | {"row_scale_ptr": "*fp32"}, {}


@triton.constexpr_function
def code_ptx(form: str, quarter: int) -> str:
    """PTX: word `$2` and bfloat16 scale `$3` -> weights of its even `$0` and odd column `$1`.

    int4: 0x4300 is 128 as a bfloat16 and its last bit counts 1, so the code, which is 8 too
    high, is put under it. fp4: sign and bits are moved to where a bfloat16 has sign, exponent
    and mantissa, and are then the number times 2**-126. fma with -0 is an exact product: sm_80
    has no other bfloat16 multiplication.
    """
    if form == "fp4":
        code = (
            "and.b32 code, $2, 0x81C081C0;",
            "shl.b32 code, $2, 3; and.b32 code, code, 0x81C081C0;",
            "shl.b32 code, $2, 6; and.b32 code, code, 0x81C081C0;",
            """
            shl.b32 code, $2, 1; and.b32 code, code, 0x80008000;
            shr.b32 bits, $2, 5; lop3.b32 code, bits, 0x01000100, code, 0xEA;
            shr.b32 bits, $2, 4; lop3.b32 code, bits, 0x00C000C0, code, 0xEA;""",
        )[quarter]
    else:
        code = f"""
            shr.b32 code, $2, {4 * quarter};
            lop3.b32 code, code, 0x000F000F, 0x43004300, 0xEA;
            mov.b32 one, 0x3F803F80;
            mov.b32 minus136, 0xC308C308;
            fma.rn.bf16x2 code, code, one, minus136;"""
    return f"""{{
            .reg .b32 code, bits, one, minus136, scale, zero;
            {code.strip()}
            mov.b32 scale, {{$3, $3}};
            mov.b32 zero, 0x80008000;
            fma.rn.bf16x2 code, code, scale, zero;
            mov.b32 {{$0, $1}}, code;
        }}"""


@triton.constexpr_function
def scale_ptx(odd: int) -> str:
    """PTX: four e4m3 in `$2` -> those of quarters `odd` (`$0`) and `odd + 2`, times 2**112.

    Shifted under a bfloat16's exponent they are 2**120 too small, so 2**232 is multiplied in.
    """
    return f"""{{
            .reg .b32 pair, power, zero;
            {"shr" if odd else "shl"}.b32 pair, $2, 4;
            and.b32 pair, pair, 0x07F007F0;
            mov.b32 zero, 0x80008000;
            mov.b32 power, 0x7B807B80;
            fma.rn.bf16x2 pair, pair, power, zero;
            mov.b32 power, 0x77807780;
            fma.rn.bf16x2 pair, pair, power, zero;
            mov.b32 {{$0, $1}}, pair;
        }}"""


@triton.jit
def scale_of(scales, QUARTER: tl.constexpr, FORMAT: tl.constexpr, FAST: tl.constexpr):
    """Scales of whole chunks -> those of one quarter: bfloat16 if FAST, otherwise float32."""
    if FORMAT == FP4:
        if FAST:
            low, high = tl.inline_asm_elementwise(
                scale_ptx(QUARTER % 2),
                "=h,=h,r",
                [scales],
                dtype=(tl.bfloat16, tl.bfloat16),
                is_pure=True,
                pack=1,
            )
            scale = low if QUARTER < 2 else high
        else:
            bits = ((scales >> 8 * QUARTER) & 0x7F) << 20
            scale = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2**120
    else:
        scale = scales
        if FORMAT == INT4_32:
            scale = (scales >> 16 * (QUARTER // 2)).to(tl.int16).to(tl.bfloat16, bitcast=True)
        if not FAST:
            scale = scale.to(tl.float32)
    return scale


@triton.jit
def number_of(half, QUARTER: tl.constexpr, FORMAT: tl.constexpr):
    """Halves of words, in the low 16 bits -> the codes of one quarter as float32 numbers."""
    if FORMAT == FP4:
        if QUARTER == 3:
            sign, code = half >> 14, half >> 11 & 4 | half >> 10 & 3
        else:
            sign, code = half >> 15 - 3 * QUARTER, half >> 6 - 3 * QUARTER & 7
        # In halves: 0, 1, 2, 3, then 4, 6, 8, 12.
        halves = tl.where(code < 4, code, (4 + 2 * (code & 1)) << (code >> 1 & 1))
        number = tl.where((sign & 1) == 1, -halves, halves).to(tl.float32) * 0.5
    else:
        number = ((half >> 4 * QUARTER & 15) - 8).to(tl.float32)
    return number


@triton.jit
def decode_quarter(
    words, scales, x, QUARTER: tl.constexpr, FORMAT: tl.constexpr, FAST: tl.constexpr
):
    """`(rows, 8 chunks)` words, `(chunks, rows)` scales -> `(rows, chunks, 16)` weights as `x`."""
    ROWS: tl.constexpr = words.shape[0]
    WORDS: tl.constexpr = words.shape[1]
    scale = tl.trans(scale_of(scales, QUARTER, FORMAT, FAST))[:, :, None]
    scale = tl.reshape(tl.broadcast_to(scale, (ROWS, WORDS // 8, 8)), (ROWS, WORDS))
    if FAST:
        even, odd = tl.inline_asm_elementwise(
            code_ptx(FORMAT, QUARTER),
            "=h,=h,r,h",
            [words, scale],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=1,
        )
    else:
        even = (number_of(words, QUARTER, FORMAT) * scale).to(x.dtype)
        odd = (number_of(words >> 16, QUARTER, FORMAT) * scale).to(x.dtype)
    return tl.reshape(tl.join(even, odd), (ROWS, WORDS // 8, 16))


@triton.jit
def decode(words, scales, x, FORMAT: tl.constexpr, FAST: tl.constexpr):
    """`(rows, 8 chunks)` words, `(chunks, rows)` scales -> `(rows, 64 chunks)` weights as `x`."""
    q0 = decode_quarter(words, scales, x, 0, FORMAT, FAST)
    q1 = decode_quarter(words, scales, x, 1, FORMAT, FAST)
    q2 = decode_quarter(words, scales, x, 2, FORMAT, FAST)
    q3 = decode_quarter(words, scales, x, 3, FORMAT, FAST)
    quarters = tl.join(tl.join(q0, q1), tl.join(q2, q3))  # (rows, chunks, 16, 2, 2)
    return tl.reshape(tl.permute(quarters, (0, 1, 4, 3, 2)), (words.shape[0], 8 * words.shape[1]))


@triton.jit
def multiply(
    words_ptr,
    scale_ptr,
    row,
    x_row_ptrs,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FORMAT: tl.constexpr,
    FAST: tl.constexpr,
):
    """Rows `row` of a matrix `(N, K)` times rows of `x`: `(rows, rows of x)` float32."""
    CHUNKS: tl.constexpr = BLOCK_K // CHUNK_COLUMNS
    ALL_CHUNKS: tl.constexpr = (K + CHUNK_COLUMNS - 1) // CHUNK_COLUMNS
    word = tl.arange(0, CHUNKS * 8)
    chunk = tl.arange(0, CHUNKS)
    k = tl.arange(0, BLOCK_K)
    word_ptrs = words_ptr + row[:, None] * (ALL_CHUNKS * 8) + word[None, :]
    scale_ptrs = scale_ptr + chunk[:, None] * N + row[None, :]
    x_ptrs = x_row_ptrs[None, :] + k[:, None]
    out = tl.zeros((row.shape[0], x_row_ptrs.shape[0]), tl.float32)
    for first in range(0, ALL_CHUNKS, CHUNKS):
        if ALL_CHUNKS % CHUNKS == 0:
            words = tl.load(word_ptrs)
            scales = tl.load(scale_ptrs)
        else:
            words = tl.load(word_ptrs, mask=(word // 8 < ALL_CHUNKS - first)[None, :], other=0)
            scales = tl.load(scale_ptrs, mask=(chunk < ALL_CHUNKS - first)[:, None], other=0)
        if K % BLOCK_K == 0:
            x = tl.load(x_ptrs)
        else:
            x = tl.load(x_ptrs, mask=(k < K - first * CHUNK_COLUMNS)[:, None], other=0.0)
        out = tl.dot(decode(words, scales, x, FORMAT, FAST), x, out, input_precision="ieee")
        word_ptrs += CHUNKS * 8
        scale_ptrs += CHUNKS * N
        x_ptrs += BLOCK_K
    return out


@triton.jit
def times_row_scale(product, row_scale_ptr, row, FAST: tl.constexpr):
    """The `(rows, tokens)` product with fp4's scale of a whole row; others have none."""
    if row_scale_ptr is not None:
        scale = tl.load(row_scale_ptr + row)
        if FAST:
            scale *= 16384.0  # 2**14, left out of the scales: bfloat16 holds no 448 * 2**126
        product *= scale[:, None]
    return product
