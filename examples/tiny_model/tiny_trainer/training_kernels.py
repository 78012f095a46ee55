"""The reference operations with cheaper gradients.

Forward they compute what `dgemma_kernels`' reference computes. Backward they keep fewer
intermediate results, and experts are taken apart with `split` and `unbind`, whose gradients are
one concatenation, where a slice's gradient is a zero-filled copy of the whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dgemma_kernels import AttentionRows, Kernels, reference_kernels
from dgemma_kernels.quantized import Matrix
from dgemma_kernels.rope import rotate_reference
from dgemma_kernels.routing import Routing
from tiny_trainer.packed_forward import PackedRows


def training_kernels() -> Kernels:
    """The table of operations to train with, float32 only."""
    return replace(
        reference_kernels(),
        rms_norm=rms_norm,
        post_attention=post_attention,
        layer_tail=layer_tail,
        heads=heads,
        route=route,
        geglu=geglu,
        experts=experts,
        attention=attention,
    )


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        inverse = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return normed if weight is None else normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, inverse, weight = ctx.saved_tensors
        product = gradient * normed
        weight_gradient = None
        if weight is None:
            along = product.sum(-1, keepdim=True)
        else:
            weight_gradient = product.reshape(-1, weight.shape[0]).sum(0)
            along = (product @ weight).unsqueeze(-1)
            gradient = gradient * weight
        along = along.div_(-normed.shape[-1])
        return torch.addcmul(gradient, normed, along).mul_(inverse), weight_gradient, None


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`(..., dim)` -> same: `x / sqrt(mean(x**2) + eps) * weight`."""
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def post_attention(
    x: Tensor, attended: Tensor, post: Tensor, dense: Tensor, expert: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The new residual, and its norm with two weights."""
    residual = x + rms_norm(attended, post, eps)
    normed = rms_norm(residual, None, eps)
    return residual, normed * dense, normed * expert


def layer_tail(
    residual: Tensor,
    dense: Tensor,
    mixture: Tensor,
    dense_weight: Tensor,
    mixture_weight: Tensor,
    post_weight: Tensor,
    scalar: Tensor,
    next_weight: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The layer's output, and its norm with the next weight."""
    both = rms_norm(dense, dense_weight, eps) + rms_norm(mixture, mixture_weight, eps)
    x = (residual + rms_norm(both, post_weight, eps)) * scalar
    return x, rms_norm(x, next_weight, eps)


def heads(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys normalised and rotated, values normalised."""
    queries = rotate_reference(rms_norm(q, q_weight, eps), cos, sin)
    keys = rotate_reference(rms_norm(k, k_weight, eps), cos, sin)
    return queries, keys, rms_norm(k if v is None else v, None, eps)


def route(
    x: Tensor, scale: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int, eps: float
) -> Routing:
    """Experts of each token and their weights."""
    read = rms_norm(x, None, eps) * scale * x.shape[-1] ** -0.5
    probabilities = (read @ proj.t()).softmax(dim=-1)
    weights, chosen = probabilities.topk(top_k, dim=-1)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return Routing(weights * per_expert_scale[chosen], chosen, probabilities)


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        active = F.gelu(gate, approximate="tanh")
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        for_gate = torch.ops.aten.gelu_backward(gradient * up, gate, approximate="tanh")
        return torch.cat((for_gate, gradient * active), dim=-1)


def geglu(gate_up: Tensor) -> Tensor:
    """`(tokens, 2 * width)` -> `(tokens, width)`: `gelu_tanh(gate) * up`."""
    out: Tensor = _Geglu.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


def experts(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    """`(T, D)`, weights and expert ids `(T, k)` -> `(T, D)`; each expert runs once."""
    if not isinstance(gate_up, Tensor) or not isinstance(down, Tensor):
        raise TypeError("quantized experts cannot be trained")
    tokens, top_k = chosen.shape
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=gate_up.shape[0]).tolist()
    pieces = x.index_select(0, order // top_k).split(counts)
    parts = zip(pieces, gate_up.unbind(), down.unbind(), strict=True)
    outs = [F.linear(geglu(F.linear(piece, into)), out) for piece, into, out in parts]
    by_slot = torch.cat(outs).index_select(0, order.argsort()).view(tokens, top_k, -1)
    return (by_slot * weights.unsqueeze(-1)).sum(dim=1)


def attention(
    q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, causal: bool, window: int | None
) -> Tensor:
    """`q (T, H, D)`, `k, v (T, KV heads, D)` -> `(T, H, D)`; packed rows bring their own masks."""
    if isinstance(rows, PackedRows):
        return rows.attend(q, k, v)
    return reference_kernels().attention(q, k, v, rows, causal, window)
