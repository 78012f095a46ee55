"""Mixture of experts: choosing experts for each token, and running them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels.geglu import geglu_reference


def choose_experts_reference(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`(T, E)` router scores -> weights `(T, k)` float32, expert ids `(T, k)`, probabilities.

    Softmax over all experts in float32, the `k` largest, made to sum to one again.
    """
    probabilities = scores.softmax(dim=-1, dtype=torch.float32)
    weights, experts = probabilities.topk(top_k, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), experts, probabilities


def experts_reference(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """`(T, D)` -> `(T, D)`: each token through its experts, summed with its weights.

    `weights, experts` are `(T, k)`; `gate_up` is `(E, 2W, D)` with the gate rows first,
    `down` is `(E, D, W)`. Tokens are sorted by expert so that each expert runs once.
    """
    tokens, top_k = experts.shape
    order = experts.flatten().argsort(stable=True)
    counts = torch.bincount(experts.flatten(), minlength=gate_up.shape[0]).tolist()
    pieces = x[order // top_k].split(counts)
    outs = [
        F.linear(geglu_reference(F.linear(piece, gate_up[e])), down[e])
        for e, piece in enumerate(pieces)
        if counts[e]
    ]
    by_slot = torch.cat(outs)[order.argsort()].view(tokens, top_k, -1)
    return (by_slot * weights.unsqueeze(-1)).sum(dim=1).to(x.dtype)
