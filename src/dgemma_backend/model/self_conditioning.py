"""How the last step's guess enters the next: added to the canvas embedding, then normalised."""

from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.layer import GatedMLP
from dgemma_backend.model.norm import RMSNorm
from dgemma_kernels import Kernels


class SelfConditioning(GatedMLP):
    """`norm(embedded + mlp(norm(guess)))`; the outer norm has no weight.

    The outer norm runs on every canvas, also without a guess, and never on encoded tokens.
    """

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__(config.hidden_size, config.intermediate_size, kernels)
        self.pre_norm = RMSNorm(kernels, config.rms_norm_eps, config.hidden_size)
        self._rms_norm = kernels.rms_norm

    def condition(self, embedded: Tensor, guess: Tensor | None) -> Tensor:
        """`(T, hidden)` twice -> `(T, hidden)`. No guess counts as zeros, whose MLP is zero."""
        if guess is not None:
            embedded = embedded + self(self.pre_norm(guess))
        return self._rms_norm(embedded, None, self.pre_norm.eps)
