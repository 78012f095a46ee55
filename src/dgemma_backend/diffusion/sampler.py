"""Which proposed tokens a step keeps, and how proposals are drawn."""

from typing import Protocol

import torch
from torch import Tensor

from dgemma_kernels.vocab import invert_cdf


class AcceptanceSettings(Protocol):
    """What a sampler factory reads of the decoding settings."""

    @property
    def entropy_bound(self) -> float:
        """In nats."""


class Sampler(Protocol):
    """Decides which positions of a canvas keep their proposed token; the rest is renoised."""

    def accept(self, entropy: Tensor) -> Tensor:
        """Entropies `(L,)` in nats -> mask `(L,)` of accepted positions."""


class EntropyBoundSampler:
    """Accepts the surest positions while their joint dependence stays bounded.

    In order of entropy, position i is accepted while the entropies before it sum to at most
    `entropy_bound` nats; so at least one always is. The sum bounds the mutual information of
    the accepted tokens (Ben-Hamu et al., arXiv 2505.24857). Ties keep their position order.
    """

    def __init__(self, settings: AcceptanceSettings) -> None:
        self.bound = settings.entropy_bound

    def accept(self, entropy: Tensor) -> Tensor:
        """Entropies `(L,)` -> mask `(L,)`."""
        rising, order = entropy.sort(stable=True)
        spent_before = rising.cumsum(-1) - rising
        return torch.zeros_like(entropy, dtype=torch.bool).scatter(
            -1, order, spent_before <= self.bound
        )


def restricted_sample(
    logits: Tensor,
    temperature: float,
    uniform: Tensor,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """`logits (L, V)`, `uniform (L,)` -> ids `(L,)` from the likeliest tokens only.

    The distribution is softmax(logits / temperature), cut to the `top_k` likeliest and then to
    the fewest of those that reach `top_p` of their mass. Temperature 0 is the argmax.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    # Row by row, because sorting needs several more copies of what it sorts.
    return torch.cat(
        [
            invert_cdf(_restricted_row(row, temperature, top_k, top_p), uniform[i : i + 1])
            for i, row in enumerate(logits)
        ]
    )


def _restricted_row(
    row: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    weight = (row - row.max()).div_(temperature).exp_()
    if top_k is None and top_p is None:
        return weight.unsqueeze(0)
    falling, order = weight.sort(descending=True, stable=True)
    keep = torch.ones_like(falling, dtype=torch.bool)
    if top_k is not None:
        keep[top_k:] = False
    if top_p is not None:
        share = torch.where(keep, falling, 0.0).double()
        before = share.cumsum(-1) - share
        keep &= before < top_p * share.sum()
    return torch.zeros_like(weight).scatter(0, order, falling * keep).unsqueeze(0)
