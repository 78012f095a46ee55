"""What happens to queries, keys and values between their projections and attention."""

from torch import Tensor

from dgemma_kernels.norm import rms_norm_reference
from dgemma_kernels.rope import rotate_reference


def heads_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`q (T, H, D)`, `k, v (T, KV heads, D)`, weights `(D,)`, angles `(T, D/2)` -> q, k, v.

    Queries and keys are normalised per head with their weight, then rotated; values are
    normalised without a weight. No `v`: the values are the keys, before their norm.
    """
    values = rms_norm_reference(k if v is None else v, None, eps)
    queries = rotate_reference(rms_norm_reference(q, q_weight, eps), cos, sin)
    return queries, rotate_reference(rms_norm_reference(k, k_weight, eps), cos, sin), values
