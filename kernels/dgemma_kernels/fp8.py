"""Matrices of 8-bit floats (e4m3) with one scale a row."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dgemma_kernels.quantized_matrix import (
    QuantizedMatrix,
    check_dense,
    check_finite,
    check_part,
    row_blocks,
)

E4M3_MAX = 448.0


@dataclass(frozen=True, eq=False)
class Fp8Matrix(QuantizedMatrix):
    """`(..., N, K)` weights `values * scale of the row`.

    `values` float8_e4m3fn `(..., N, K)`, `scale` float32 `(..., N)`.
    Raises ValueError if parts do not fit together.
    """

    values: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        check_part("values", self.values, torch.float8_e4m3fn, tuple(self.values.shape))
        check_part("scale", self.scale, torch.float32, tuple(self.values.shape[:-1]))

    @property
    def shape(self) -> torch.Size:
        """The shape of the dense matrix, `(..., N, K)`."""
        return self.values.shape

    @classmethod
    def quantize(cls, dense: Tensor) -> Self:
        """The largest weight of each row becomes 448, or -448; a row of zeros has scale 1."""
        check_dense(dense)
        *experts, rows, columns = dense.shape
        values = dense.new_empty(*experts, rows, columns, dtype=torch.float8_e4m3fn)
        scale = dense.new_empty(*experts, rows, dtype=torch.float32)
        flat_values, flat_scale = values.flatten(0, -2), scale.flatten()
        for part in row_blocks(dense):
            block = dense.flatten(0, -2)[part].float()
            check_finite(block)
            top = block.abs().amax(dim=-1) / E4M3_MAX
            flat_scale[part] = torch.where(top == 0, 1.0, top)
            flat_values[part] = (block / flat_scale[part].unsqueeze(-1)).to(values.dtype)
        return cls(values, scale)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dense matrix: multiplied in float32 (float64 for float64), rounded once."""
        wide = torch.promote_types(dtype, torch.float32)
        return (self.values.to(wide) * self.scale.to(wide).unsqueeze(-1)).to(dtype)
