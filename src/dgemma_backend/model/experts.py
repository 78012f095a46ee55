"""The router and the experts it chooses from."""

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.norm import RMSNorm
from dgemma_kernels import Kernels


class Router(nn.Module):
    """Picks `top_k_experts` experts for each token, and how much each counts.

    The weights are made to sum to one first and scaled per expert after, so what comes out
    need not sum to one.
    """

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.top_k = config.top_k_experts
        self.recorded: list[Tensor] | None = None  # probabilities (T, E), while training
        self.norm = RMSNorm(kernels, config.rms_norm_eps)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))
        self._choose_experts = kernels.choose_experts

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(T, hidden)` -> weights float32 and expert ids, each `(T, top_k)`."""
        x = self.norm(x) * self.scale * x.shape[-1] ** -0.5
        weights, experts, probabilities = self._choose_experts(self.proj(x), self.top_k)
        if self.recorded is not None:
            self.recorded.append(probabilities)
        return weights * self.per_expert_scale[experts], experts


class Experts(nn.Module):
    """All experts of a layer: gate and up projections in one tensor, gate rows first."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        count, width, hidden = (
            config.num_experts,
            config.moe_intermediate_size,
            config.hidden_size,
        )
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, width))
        self._experts = kernels.experts

    def forward(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """`(T, hidden)`, weights and ids `(T, top_k)` -> `(T, hidden)`."""
        return self._experts(x, weights, experts, self.gate_up_proj, self.down_proj)
