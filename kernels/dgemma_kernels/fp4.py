"""NVFP4: 4-bit floats (e2m1) with an e4m3 scale for every 16 columns of a row."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels.fp8 import E4M3_MAX
from dgemma_kernels.interleave import (
    CHUNK,
    halves_of,
    join_quarters,
    padded_columns,
    scales_by_chunk,
    scales_by_row,
    split_quarters,
    words_of,
)
from dgemma_kernels.quantized_matrix import (
    QuantizedMatrix,
    check_dense,
    check_finite,
    check_part,
    row_blocks,
)

GROUP = 16
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the codes 0 to 7; 8 to 15 negate
_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


@dataclass(frozen=True, eq=False)
class Fp4Matrix(QuantizedMatrix):
    """`(..., N, K)` weights `e2m1 code * scale of its 16 columns * scale of its row`.

    `packed` int32 `(..., N, padded K / 8)`: codes laid out as `interleave` draws it, but with
    the bits of a code (s = sign, m = the other three) placed where few instructions make a
    bfloat16 of them, its sign in bit 15 and `m` in bits 8 to 6:

        bit of the half   15  14  13  12  11  10   9   8   7   6   5   4   3   2   1   0
        code of quarter   s0  s3  m3  s1  m3  m3  s2  m0  m0  m0  m1  m1  m1  m2  m2  m2

    `scale` float8_e4m3fn `(..., padded K / 64, N, 4)`, never negative.
    `row_scale` float32 `(..., N)`: the published scale of a whole matrix, kept for each row
    since gate and up matrices, which lie in one here, are published with one each.

    Raises ValueError if parts do not fit together.
    """

    packed: Tensor
    scale: Tensor
    row_scale: Tensor
    columns: int

    def __post_init__(self) -> None:
        *experts, rows, _ = self.packed.shape
        padded = padded_columns(self.columns)
        check_part("packed", self.packed, torch.int32, (*experts, rows, padded // 8))
        scales = (*experts, padded // CHUNK, rows, CHUNK // GROUP)
        check_part("scale", self.scale, torch.float8_e4m3fn, scales)
        check_part("row_scale", self.row_scale, torch.float32, (*experts, rows))

    @property
    def shape(self) -> torch.Size:
        """The shape of the dense matrix, `(..., N, K)`."""
        return torch.Size((*self.packed.shape[:-1], self.columns))

    @classmethod
    def quantize(cls, dense: Tensor) -> Self:
        """Nearest codes; a group's largest weight becomes 6, a matrix's largest scale 448."""
        check_dense(dense)
        *experts, rows, columns = dense.shape
        padded = padded_columns(columns)
        packed = dense.new_empty(*experts, rows, padded // 8, dtype=torch.int32)
        scale = dense.new_empty(*experts, rows, padded // GROUP, dtype=torch.float8_e4m3fn)
        top = dense.amax(dim=(-2, -1)).maximum(-dense.amin(dim=(-2, -1))).float()
        whole = torch.where(top == 0, 1.0, top / (_MAGNITUDES[-1] * E4M3_MAX))
        row_scale = whole.unsqueeze(-1).expand(*experts, rows).contiguous()
        flat_packed, flat_scale = packed.flatten(0, -2), scale.flatten(0, -2)
        for part in row_blocks(dense):
            block = F.pad(dense.flatten(0, -2)[part].float(), (0, padded - columns))
            check_finite(block)
            groups = (block / row_scale.flatten()[part].unsqueeze(-1)).unflatten(-1, (-1, GROUP))
            flat_scale[part] = (groups.abs().amax(dim=-1) / _MAGNITUDES[-1]).to(scale.dtype)
            flat_packed[part] = _pack(_nearest_codes(groups, flat_scale[part]).flatten(-2))
        return cls(packed, scales_by_chunk(scale, GROUP), row_scale, columns)

    @classmethod
    def from_published(cls, values: Tensor, scale: Tensor, global_scale: Tensor) -> Self:
        """From the parts of a ModelOpt checkpoint (`weight`, `weight_scale`, `weight_scale_2`).

        `values` uint8 `(..., N, K / 2)`, the even column in the low four bits; `scale`
        float8_e4m3fn `(..., N, K / 16)`; `global_scale` `(...)`, or `(..., N)` where rows of
        several published matrices lie in one. compressed-tensors publishes the reciprocal of
        `global_scale`. Raises ValueError for other dtypes or shapes, or negative scales.
        """
        *experts, rows, half = values.shape
        columns = 2 * half
        check_part("values", values, torch.uint8, tuple(values.shape))
        check_part("scale", scale, torch.float8_e4m3fn, (*experts, rows, -(-columns // GROUP)))
        if tuple(global_scale.shape) not in ((*experts,), (*experts, rows)):
            raise ValueError(
                f"global_scale has shape {tuple(global_scale.shape)}: give one a matrix, "
                f"{tuple(experts)}, or one a row, {(*experts, rows)}"
            )
        _check_scales(scale)
        padded = padded_columns(columns)
        codes = torch.stack((values & 15, values >> 4), dim=-1).flatten(-2)
        packed = _pack(F.pad(codes, (0, padded - columns)))
        octets = F.pad(scale.view(torch.uint8), (0, padded // GROUP - scale.shape[-1]))
        if global_scale.ndim == len(experts):
            global_scale = global_scale.unsqueeze(-1).expand(*experts, rows)
        return cls(
            packed,
            scales_by_chunk(octets, GROUP).view(torch.float8_e4m3fn),
            global_scale.float().contiguous(),
            columns,
        )

    def codes(self) -> Tensor:
        """The 4-bit floats as numbers 0 to 15, uint8 `(..., N, K)`."""
        half = halves_of(self.packed)
        q0 = half >> 12 & 8 | half >> 6 & 7
        q1 = half >> 9 & 8 | half >> 3 & 7
        q2 = half >> 6 & 8 | half & 7
        q3 = half >> 11 & 8 | half >> 11 & 4 | half >> 10 & 3
        codes = join_quarters(torch.stack((q0, q1, q2, q3)))
        return codes.to(torch.uint8)[..., : self.columns]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dense matrix: multiplied in float32 (float64 for float64), rounded once."""
        wide = torch.promote_types(dtype, torch.float32)
        numbers = torch.tensor(_MAGNITUDES, dtype=wide, device=self.device)
        numbers = torch.cat((numbers, -numbers))
        scale = scales_by_row(self.scale.to(wide))
        each = scale.repeat_interleave(GROUP, dim=-1)[..., : self.columns]
        dense = numbers[self.codes().int()].mul_(each)
        return dense.mul_(self.row_scale.to(wide).unsqueeze(-1)).to(dtype)


def _check_scales(scale: Tensor) -> None:
    """Raise ValueError for scales below zero or NaN, which kernels do not tell from others."""
    if scale.is_meta:
        return
    if bad := int((scale.view(torch.uint8) >= 0x7F).sum()):
        raise ValueError(
            f"{bad} of {scale.numel()} scales are negative or NaN: NVFP4 has none such, "
            f"compare the checkpoint's files with what was published"
        )


def _pack(codes: Tensor) -> Tensor:
    """`(..., padded K)` codes 0 to 15 -> `(..., padded K / 8)` words."""
    q0, q1, q2, q3 = split_quarters(codes.to(torch.int32))
    first = (q0 & 8) << 12 | (q0 & 7) << 6
    second = (q1 & 8) << 9 | (q1 & 7) << 3
    third = (q2 & 8) << 6 | (q2 & 7)
    fourth = (q3 & 8) << 11 | (q3 & 4) << 11 | (q3 & 3) << 10
    return words_of(first | second | third | fourth)


def _nearest_codes(groups: Tensor, scale: Tensor) -> Tensor:
    """Codes int32 of the shape of `groups`, for the e4m3 scale of each group."""
    divisor = torch.where(scale.float() == 0, 1.0, scale.float()).unsqueeze(-1)
    number = groups / divisor
    middles = torch.tensor(_MIDDLES, device=groups.device)
    return torch.bucketize(number.abs(), middles, out_int32=True) | (number < 0).int() << 3
