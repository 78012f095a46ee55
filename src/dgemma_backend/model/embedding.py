"""Token embedding, and the same matrix as output head and as soft embedding."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_kernels import (
    ClassMaxima,
    ClassOrder,
    ClassStatistics,
    Draws,
    Kernels,
    VocabularyPass,
)


@cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=dtype, device="cpu"))


class Embedding(nn.Module):
    """One `(V, hidden)` matrix that reads tokens in, reads logits out and mixes guesses."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.cap = config.final_logit_softcapping
        self._vocabulary = kernels.vocabulary
        self._class_maxima = kernels.class_maxima
        self._class_statistics = kernels.class_statistics

    @property
    def _scale(self) -> float:
        """sqrt(hidden), rounded to the weights' dtype as in training (bfloat16: 53 for 2816)."""
        return _rounded(self.weight.shape[1] ** 0.5, self.weight.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids `(...)` -> `(..., hidden)`, scaled."""
        return F.embedding(tokens, self.weight) * self._scale

    def logits(self, hidden: Tensor) -> Tensor:
        """`(..., hidden)` -> `(..., V)` float32, softcapped in float32."""
        return (F.linear(hidden, self.weight).float() / self.cap).tanh() * self.cap

    def vocabulary_pass(self, hidden: Tensor, draws: Draws, *, guess: bool) -> VocabularyPass:
        """`(N, hidden)` after the final norm -> statistics of its logits, the guess scaled."""
        found = self._vocabulary(hidden, self.weight, self.cap, draws, guess=guess)
        return found if found.guess is None else found._replace(guess=found.guess * self._scale)

    def class_maxima(self, hidden: Tensor, order: ClassOrder) -> ClassMaxima:
        """`(N, hidden)` after the final norm -> the best token of each class, `(N, C)`."""
        return self._class_maxima(hidden, self.weight, self.cap, order)

    def class_statistics(self, hidden: Tensor, order: ClassOrder, draws: Draws) -> ClassStatistics:
        """`(N, hidden)` after the final norm -> statistics of each class, `(N, C)`."""
        return self._class_statistics(hidden, self.weight, self.cap, order, draws)

    def soft(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Logits `(..., V)`, temperature `(..., 1)` -> `(..., hidden)`: what they expect, scaled.

        The same guess as `vocabulary_pass` gives, for logits that are written out.
        """
        share = (logits / temperature).softmax(dim=-1).to(self.weight.dtype)
        return (share @ self.weight) * self._scale
