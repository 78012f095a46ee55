"""Rotary position embedding, rotate-half layout."""

import torch
from torch import Tensor


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`(T, H, D)` -> same: turns the pairs `(d, d + D/2)` of every head by the row's angles.

    `cos` and `sin` are `(T, D/2)`, one angle per pair; a pair with angle 0 stays as it is,
    which is how partial ("proportional") RoPE is expressed.
    """
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
