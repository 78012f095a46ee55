"""Logits that are simply there: what diffusion needs of a model, in a few plain lines."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgemma_backend.diffusion.denoise import Logits
from dgemma_kernels import Draws, VocabularyPass


class WrittenOut:
    """`(L, V)` logits as a denoising step wants them; the guess is their mean."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()

    def dense(self) -> Tensor:
        return self.logits.clone()

    def vocabulary_pass(self, draws: Draws, *, guess: bool) -> VocabularyPass:
        tempered = self.logits.double() / draws.temperature.unsqueeze(-1)
        share = tempered.softmax(-1)
        argmax = self.logits.argmax(-1)
        drawn = tempered / draws.proposal.clamp_min(1e-9).unsqueeze(-1)
        passed = drawn.softmax(-1).cumsum(-1) > draws.uniform.unsqueeze(-1)
        return VocabularyPass(
            argmax=argmax,
            sample=torch.where(draws.proposal == 0, argmax, passed.int().argmax(-1)),
            entropy=-torch.special.xlogy(share, share).sum(-1).float(),
            log_total=tempered.logsumexp(-1).float(),
            finite=self.logits.isfinite().all(-1),
            guess=self.logits.mean(-1) if guess else None,
        )


@pytest.fixture(scope="session")
def written_out() -> Callable[[Tensor], Logits]:
    return WrittenOut
