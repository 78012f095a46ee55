"""Which experts a token goes to, and how much each counts."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgemma_kernels.norm import rms_norm_reference


class Routing(NamedTuple):
    """For each token its experts, their weights, and the probabilities of all experts."""

    weights: Tensor  # (T, k) float32
    experts: Tensor  # (T, k) ids
    probabilities: Tensor  # (T, E) float32


def route_reference(
    x: Tensor, scale: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int, eps: float
) -> Routing:
    """`x (T, D)`, `scale (D,)`, `proj (E, D)`, `per_expert_scale (E,)` -> `Routing`.

    Scores are `proj @ (norm(x) * scale / sqrt(D))`. Softmax over all experts in float32, the `k`
    largest made to sum to one, then scaled per expert: so the weights need not sum to one.
    """
    read = rms_norm_reference(x, None, eps) * scale * x.shape[-1] ** -0.5
    probabilities = (read @ proj.t()).softmax(dim=-1, dtype=torch.float32)
    weights, experts = probabilities.topk(top_k, dim=-1)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return Routing(weights * per_expert_scale[experts], experts, probabilities)
