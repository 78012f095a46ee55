"""One layer: attention, then a dense MLP and a mixture of experts side by side."""

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.attention import Attention, Batch
from dgemma_backend.model.experts import Experts, Router
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import Angles
from dgemma_kernels import Kernels


class GatedMLP(nn.Module):
    """`down(gelu_tanh(gate(x)) * up(x))`."""

    def __init__(self, hidden: int, width: int, kernels: Kernels) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)
        self._geglu = kernels.geglu

    def forward(self, x: Tensor) -> Tensor:
        """`(..., hidden)` -> same."""
        both = torch.cat((self.gate_proj(x), self.up_proj(x)), dim=-1)
        out: Tensor = self.down_proj(self._geglu(both))
        return out


class Layer(nn.Module):
    """A transformer layer with norms before and after each branch."""

    layer_scalar: Tensor

    def __init__(self, config: ModelConfig, index: int, kernels: Kernels) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(kernels, config.rms_norm_eps, config.hidden_size)

        self.input_layernorm = norm()
        self.self_attn = Attention(config, index, kernels)
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, kernels)
        self.post_feedforward_layernorm_1 = norm()
        self.pre_feedforward_layernorm_2 = norm()
        self.router = Router(config, kernels)
        self.experts = Experts(config, kernels)
        self.post_feedforward_layernorm_2 = norm()
        self.post_feedforward_layernorm = norm()
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(self, x: Tensor, angles: Angles, batch: Batch) -> Tensor:
        """`(T, hidden)` -> `(T, hidden)`."""
        attended = self.self_attn(self.input_layernorm(x), angles, batch)
        x = x + self.post_attention_layernorm(attended)
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        both = dense + self.post_feedforward_layernorm_2(self._mixture(x))
        out: Tensor = (x + self.post_feedforward_layernorm(both)) * self.layer_scalar
        return out

    def _mixture(self, x: Tensor) -> Tensor:
        weights, experts = self.router(x)  # the router reads the raw residual, not a norm of it
        out: Tensor = self.experts(self.pre_feedforward_layernorm_2(x), weights, experts)
        return out
