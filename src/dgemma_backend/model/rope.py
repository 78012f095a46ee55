"""Rotary position angles: full turns on sliding layers, a quarter of them on full layers."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgemma_backend.config import ModelConfig


class Angles(NamedTuple):
    """Cosine and sine for each token, `(T, head_dim / 2)`."""

    cos: Tensor
    sin: Tensor


def inverse_frequencies(
    head_dim: int, theta: float, fraction: float, device: torch.device
) -> Tensor:
    """`(head_dim / 2,)` float32: `theta ** (-2j / head_dim)`, zero past the first `fraction`.

    A zero frequency leaves its pair unturned, whatever the position ("proportional" RoPE: the
    exponent runs over the whole head, not over the turned part).
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    turned = int(fraction * head_dim // 2)
    frequencies = 1.0 / theta ** (pairs / head_dim)
    frequencies[turned:] = 0.0
    return frequencies


def angles_for(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> dict[str, Angles]:
    """Positions `(T,)` -> angles by layer type. Computed in float32, rounded to `dtype`."""
    kinds = {
        "sliding_attention": (config.head_dim, config.sliding_rope_theta, 1.0),
        "full_attention": (
            config.global_head_dim,
            config.full_rope_theta,
            config.full_partial_rotary_factor,
        ),
    }
    angles = {}
    for kind, (head_dim, theta, fraction) in kinds.items():
        turns = inverse_frequencies(head_dim, theta, fraction, positions.device)
        angle = positions.float().unsqueeze(-1) * turns
        angles[kind] = Angles(angle.cos().to(dtype), angle.sin().to(dtype))
    return angles
