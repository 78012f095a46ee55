"""Root-mean-square normalisation."""

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`(..., dim)` -> same shape and dtype: `x / sqrt(mean(x**2) + eps) * weight`, in float32.

    The weight multiplies as it is (no `1 + weight`); None means no weight. Rounded to the
    dtype of `x` once, at the end (model card of Gemma 4: norms in float32).
    """
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * weight.float()
    return normed.to(x.dtype)
