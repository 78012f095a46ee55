"""A projection whose weight may be quantized."""

import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels.quantized import Matrix, dequantized


def linear_reference(x: Tensor, weight: Matrix) -> Tensor:
    """`x (..., K)`, `weight (N, K)` -> `(..., N)` in the dtype of `x`."""
    return F.linear(x, dequantized(weight, x.dtype))
