"""Root-mean-square normalisation, alone and as it stands between the branches of a layer.

The fused operations compute what their parts would one after another, each rounded to the dtype
of the residual, and save passes over it.
"""

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`(..., dim)` -> same shape and dtype: `x / sqrt(mean(x**2) + eps) * weight`, in float32.

    The weight multiplies as it is (no `1 + weight`); None means no weight. Rounded to the
    dtype of `x` once, at the end (model card of Gemma 4: norms in float32).
    """
    normed = _normalised(x, eps)
    if weight is not None:
        normed = normed * weight.float()
    return normed.to(x.dtype)


def post_attention_reference(
    x: Tensor, attended: Tensor, post: Tensor, dense: Tensor, expert: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual and attention's output, each `(T, D)`; three norm weights `(D,)` -> three `(T, D)`.

    The new residual `x + norm(attended) * post`, and what the dense MLP and the experts read of
    it: its norm, computed once, times `dense` and times `expert`.
    """
    residual = x + rms_norm_reference(attended, post, eps)
    normed = _normalised(residual, eps)
    return residual, (normed * dense.float()).to(x.dtype), (normed * expert.float()).to(x.dtype)


def layer_tail_reference(
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
    """Residual and both branches `(T, D)`, norm weights `(D,)`, scalar `(1,)` -> two `(T, D)`.

    The layer's output `(residual + norm(norm(dense) + norm(mixture))) * scalar`, each norm with
    its weight, and the norm of that with the weight of whatever reads it next.
    """
    both = rms_norm_reference(dense, dense_weight, eps)
    both = both + rms_norm_reference(mixture, mixture_weight, eps)
    x = (residual + rms_norm_reference(both, post_weight, eps)) * scalar
    return x, rms_norm_reference(x, next_weight, eps)


def _normalised(x: Tensor, eps: float) -> Tensor:
    x32 = x.float()
    return x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
