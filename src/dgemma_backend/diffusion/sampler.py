"""Which proposed tokens a step keeps, and how proposals are drawn."""

from typing import Protocol

import torch
from torch import Tensor

from dgemma_kernels import Draws
from dgemma_kernels.vocab import invert_cdf


class AcceptanceSettings(Protocol):
    """What a sampler factory reads of the decoding settings."""

    @property
    def entropy_bound(self) -> float:
        """In nats."""


class Sampler(Protocol):
    """Decides which positions of a canvas keep their proposed token; the rest is renoised.

    A sampler may have a `capture_key`, hashable: then `accept` only launches operations on the
    device, never waits, and is the same function of the entropies for an equal key. Its steps
    are captured as CUDA graphs, which saves the time of launching them.
    """

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
        self.capture_key = ("entropy_bound", self.bound)

    def accept(self, entropy: Tensor) -> Tensor:
        """Entropies `(L,)` -> mask `(L,)`."""
        rising, order = entropy.sort(stable=True)
        spent_before = rising.cumsum(-1) - rising
        return torch.zeros_like(entropy, dtype=torch.bool).scatter(
            -1, order, spent_before <= self.bound
        )


def restricted_sample(
    logits: Tensor, draws: Draws, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """`logits (L, V)`, `draws` of L rows -> ids `(L,)` from the likeliest tokens only.

    The distribution is softmax(logits / (temperature * proposal)), cut to the `top_k` likeliest
    and then to the fewest of those that reach `top_p` of their mass. Proposal factor 0 is the
    argmax.
    """
    # Row by row, because sorting needs several more copies of what it sorts.
    temperature = draws.temperature * draws.proposal
    drawn = [
        invert_cdf(
            _restricted_row(row, temperature[i], top_k, top_p).unsqueeze(0),
            draws.uniform[i : i + 1],
        )
        for i, row in enumerate(logits)
    ]
    return torch.where(draws.proposal == 0, logits.argmax(dim=-1), torch.cat(drawn))


def _restricted_row(
    row: Tensor, temperature: Tensor, top_k: int | None, top_p: float | None
) -> Tensor:
    weight = (row - row.max()).div_(temperature.clamp_min(1e-30)).exp_()
    falling, order = weight.sort(descending=True, stable=True)
    keep = torch.ones_like(falling, dtype=torch.bool)
    if top_k is not None:
        keep[top_k:] = False
    if top_p is not None:
        share = torch.where(keep, falling, 0.0).double()
        before = share.cumsum(-1) - share
        keep &= before < top_p * share.sum()
    return torch.zeros_like(weight).scatter(0, order, falling * keep)
