"""Matrices of 4-bit integers with a scale for every 32 or 64 columns of a row."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

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

GROUPS = (32, 64)
# The largest weight of a group, in steps. 8 spends all codes on it; more clips it and rounds
# the others finer, which is better for most groups of nearly normal weights.
_STEPS_AT_TOP = (7.5, 8.0, 8.4, 8.8, 9.2, 9.7, 10.3, 11.0)


@dataclass(frozen=True, eq=False)
class Int4Matrix(QuantizedMatrix):
    """`(..., N, K)` weights `code * scale of its group`, codes whole numbers in [-8, 7].

    `packed` int32 `(..., N, padded K / 8)`: codes plus 8, laid out as `interleave` draws it,
    quarter `q` in bits `4q` to `4q + 3` of each half. Columns past `columns` have code 0.
    `scale` bfloat16 `(..., padded K / 64, N, 64 / group)`. Code -8 times a negative scale
    serves a group whose largest weight is above zero.

    Raises ValueError if parts do not fit together.
    """

    packed: Tensor
    scale: Tensor
    columns: int
    group: int

    def __post_init__(self) -> None:
        check_group(self.group)
        *experts, rows, _ = self.packed.shape
        padded = padded_columns(self.columns)
        check_part("packed", self.packed, torch.int32, (*experts, rows, padded // 8))
        scales = (*experts, padded // CHUNK, rows, CHUNK // self.group)
        check_part("scale", self.scale, torch.bfloat16, scales)

    @property
    def shape(self) -> torch.Size:
        """The shape of the dense matrix, `(..., N, K)`."""
        return torch.Size((*self.packed.shape[:-1], self.columns))

    @classmethod
    def quantize(cls, dense: Tensor, group: int = 64) -> Self:
        """The nearest matrix to `dense (..., N, K)` among a few scales tried for each group."""
        check_group(group)
        check_dense(dense)
        *experts, rows, columns = dense.shape
        padded = padded_columns(columns)
        packed = dense.new_empty(*experts, rows, padded // 8, dtype=torch.int32)
        scale = dense.new_empty(*experts, rows, padded // group, dtype=torch.bfloat16)
        flat_packed, flat_scale = packed.flatten(0, -2), scale.flatten(0, -2)
        for part in row_blocks(dense):
            block = F.pad(dense.flatten(0, -2)[part].float(), (0, padded - columns))
            check_finite(block)
            groups = block.unflatten(-1, (-1, group))
            steps = _best_scale(groups)
            flat_scale[part] = steps
            flat_packed[part] = _pack(_codes_at(groups, steps).flatten(-2))
        return cls(packed, scales_by_chunk(scale, group), columns, group)

    @classmethod
    def from_codes(cls, codes: Tensor, scale: Tensor, group: int) -> Self:
        """From `codes` int8 `(..., N, K)` in [-8, 7] and `scale (..., N, ceil(K / group))`.

        Published checkpoints come this way; scales are rounded to bfloat16.
        Raises ValueError for other dtypes, shapes or codes.
        """
        check_group(group)
        *_, columns = codes.shape
        check_part("codes", codes, torch.int8, tuple(codes.shape))
        check_part("scale", scale, scale.dtype, (*codes.shape[:-1], -(-columns // group)))
        if not codes.is_meta and not bool(((codes >= -8) & (codes <= 7)).all()):
            low, high = int(codes.min()), int(codes.max())
            raise ValueError(
                f"codes go from {low} to {high}, and int4 from -8 to 7: "
                f"subtract the zero point (8 for unsigned codes) first"
            )
        padded = padded_columns(columns)
        wide = F.pad(scale.to(torch.bfloat16), (0, padded // group - scale.shape[-1]))
        packed = _pack(F.pad(codes, (0, padded - columns)))
        return cls(packed, scales_by_chunk(wide, group), columns, group)

    def codes(self) -> Tensor:
        """The whole numbers, int8 `(..., N, K)`."""
        halves = halves_of(self.packed)
        quarters = torch.stack([(halves >> 4 * q) & 15 for q in range(4)])
        return (join_quarters(quarters) - 8).to(torch.int8)[..., : self.columns]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dense matrix; products are exact in float32 and rounded once."""
        scale = scales_by_row(self.scale.float())
        each = scale.repeat_interleave(self.group, dim=-1)[..., : self.columns]
        return self.codes().float().mul_(each).to(dtype)


def check_group(group: int) -> None:
    """Raise ValueError unless a scale may cover `group` columns."""
    if group not in GROUPS:
        raise ValueError(f"group is {group}: a scale covers 32 or 64 columns, choose one of them")


def _pack(codes: Tensor) -> Tensor:
    """`(..., padded K)` codes in [-8, 7] -> `(..., padded K / 8)` words."""
    q0, q1, q2, q3 = split_quarters((codes + 8).to(torch.int32))
    return words_of(q0 | q1 << 4 | q2 << 8 | q3 << 12)


def _best_scale(groups: Tensor) -> Tensor:
    """`(rows, groups, group)` float32 -> `(rows, groups)` bfloat16 of the least squared error."""
    where = groups.abs().argmax(dim=-1, keepdim=True)
    top = groups.gather(-1, where).squeeze(-1)
    best = torch.zeros_like(top, dtype=torch.bfloat16)
    least = torch.full_like(top, torch.inf)
    for steps in _STEPS_AT_TOP:
        scale = (top / -steps).to(torch.bfloat16)  # the largest weight goes where 8 steps are
        rounded = _codes_at(groups, scale).float().mul_(scale.float().unsqueeze(-1))
        # In units of the largest weight, whose square might be out of reach.
        error = rounded.sub_(groups).div_(top.unsqueeze(-1)).square_().sum(dim=-1)
        better = error < least
        best = torch.where(better, scale, best)
        least = torch.where(better, error, least)
    return best


def _codes_at(groups: Tensor, scale: Tensor) -> Tensor:
    """Nearest codes, int8 of the shape of `groups`, for the scale of each group."""
    divisor = torch.where(scale == 0, 1.0, scale.float()).unsqueeze(-1)
    return (groups / divisor).round_().clamp_(-8, 7).to(torch.int8)
