"""A mixture of experts: every token through the experts it was routed to."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels.geglu import geglu_reference
from dgemma_kernels.quantized import Matrix, dequantized


def experts_reference(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: Matrix, down: Matrix
) -> Tensor:
    """`(T, D)` -> `(T, D)`: each token through its experts, summed with its weights.

    `weights, experts` are `(T, k)`; `gate_up` is `(E, 2W, D)` with the gate rows first,
    `down` is `(E, D, W)`. Tokens are sorted by expert so that each expert runs once; of a
    quantized matrix one expert at a time is written out.
    """
    tokens, top_k = experts.shape
    order = experts.flatten().argsort(stable=True)
    counts = torch.bincount(experts.flatten(), minlength=gate_up.shape[0]).tolist()
    pieces = x.index_select(0, order // top_k).split(counts)
    outs = [_run_expert(piece, gate_up[e], down[e]) for e, piece in enumerate(pieces) if counts[e]]
    by_slot = torch.cat(outs).index_select(0, order.argsort()).view(tokens, top_k, -1)
    return torch.bmm(weights.unsqueeze(1).float(), by_slot.float()).squeeze(1).to(x.dtype)


def _run_expert(x: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    active = geglu_reference(F.linear(x, dequantized(gate_up, x.dtype)))
    return F.linear(active, dequantized(down, x.dtype))
