"""Token embedding, and the same matrix as output head and as soft embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_kernels import Kernels


class Embedding(nn.Module):
    """One `(V, hidden)` matrix that reads tokens in, reads logits out and mixes guesses."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.cap = config.final_logit_softcapping
        self._kernels = kernels

    @property
    def _scale(self) -> Tensor:
        """sqrt(hidden), rounded to the weights' dtype as in training (bfloat16: 53 for 2816)."""
        root = float(self.weight.shape[1]) ** 0.5
        return torch.tensor(root, dtype=self.weight.dtype, device=self.weight.device)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids `(...)` -> `(..., hidden)`, scaled."""
        return F.embedding(tokens, self.weight) * self._scale

    def logits(self, hidden: Tensor) -> Tensor:
        """`(N, hidden)` -> `(N, V)` float32, softcapped in float32."""
        return self._kernels.softcap(F.linear(hidden, self.weight).float(), self.cap)

    def soft(self, logits: Tensor, temperature: Tensor, log_total: Tensor | None) -> Tensor:
        """`(N, V)` logits, `(N,)` temperature -> `(N, hidden)`: the expected embedding, scaled.

        `log_total` spares a pass over the logits where the log-sum-exp is already known.
        """
        if log_total is None:
            log_total = torch.logsumexp(logits / temperature.unsqueeze(-1), dim=-1)
        mixed = self._kernels.soft_embedding(logits, temperature, log_total, self.weight)
        return mixed * self._scale
