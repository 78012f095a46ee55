"""Projections: matrices that may be replaced by quantized ones once they are loaded."""

import torch
from torch import Tensor, nn

from dgemma_kernels import Kernels
from dgemma_kernels.quantized import Matrix


class Linear(nn.Module):
    """`x @ weight.T`, no bias. `weight` is `(outside, inside)`."""

    weight: Matrix

    def __init__(self, inside: int, outside: int, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outside, inside))
        self._linear = kernels.linear

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inside)` -> `(..., outside)`."""
        return self._linear(x, self.weight)
