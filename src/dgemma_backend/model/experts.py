"""The router and the experts it chooses from."""

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_kernels import Kernels
from dgemma_kernels.quantized import Matrix
from dgemma_kernels.routing import Routing


class Router(nn.Module):
    """Picks `top_k_experts` experts for each token, and how much each counts."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.top_k = config.top_k_experts
        self.eps = config.rms_norm_eps
        self.recorded: list[Tensor] | None = None  # probabilities (T, E), while training
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))
        self._route = kernels.route

    def forward(self, x: Tensor) -> Routing:
        """The raw residual `(T, hidden)` -> weights and expert ids, each `(T, top_k)`."""
        routing = self._route(
            x, self.scale, self.proj.weight, self.per_expert_scale, self.top_k, self.eps
        )
        if self.recorded is not None:
            self.recorded.append(routing.probabilities)
        return routing


class Experts(nn.Module):
    """All experts of a layer: gate and up projections in one tensor, gate rows first."""

    gate_up_proj: Matrix
    down_proj: Matrix

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

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """`(T, hidden)` -> `(T, hidden)`."""
        return self._experts(x, routing.weights, routing.experts, self.gate_up_proj, self.down_proj)
