"""Matrices a model may hold in place of a dense weight, and the way back to a dense one."""

import torch
from torch import Tensor

from dgemma_kernels.fp4 import Fp4Matrix
from dgemma_kernels.fp8 import Fp8Matrix
from dgemma_kernels.int4 import Int4Matrix
from dgemma_kernels.quantized_matrix import QuantizedMatrix

__all__ = ["Fp4Matrix", "Fp8Matrix", "Int4Matrix", "Matrix", "QuantizedMatrix", "dequantized"]

Matrix = Tensor | Fp8Matrix | Int4Matrix | Fp4Matrix


def dequantized(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """The dense weights of any matrix, in `dtype`."""
    if isinstance(matrix, Tensor):
        return matrix.to(dtype)
    return matrix.dequantize(dtype)
