"""RMS normalisation with and without a learned weight."""

import torch
from torch import Tensor, nn

from dgemma_kernels import Kernels


class RMSNorm(nn.Module):
    """Normalises the last axis to unit root mean square, in float32."""

    weight: Tensor

    def __init__(self, kernels: Kernels, eps: float, dim: int) -> None:
        super().__init__()
        self.eps = eps
        self._rms_norm = kernels.rms_norm
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., dim)` -> same shape and dtype."""
        return self._rms_norm(x, self.weight, self.eps)
