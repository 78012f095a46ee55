"""One layer: attention, then a dense MLP and a mixture of experts side by side."""

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.attention import Attention, Batch
from dgemma_backend.model.experts import Experts, Router
from dgemma_backend.model.linear import Linear
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import Angles
from dgemma_kernels import Kernels


class GatedMLP(nn.Module):
    """`down(gelu_tanh(gate(x)) * up(x))`."""

    def __init__(self, hidden: int, width: int, kernels: Kernels) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width, kernels)
        self.up_proj = Linear(hidden, width, kernels)
        self.down_proj = Linear(width, hidden, kernels)
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
        self._kernels = kernels
        self._eps = config.rms_norm_eps

    def forward(
        self, x: Tensor, normed: Tensor, angles: Angles, batch: Batch, following: RMSNorm
    ) -> tuple[Tensor, Tensor]:
        """Residual and its `input_layernorm`, each `(T, hidden)` -> the same for what follows.

        `following` is the norm that reads this layer's output: the next layer's first, or the
        final one.
        """
        attended = self.self_attn(normed, angles, batch)
        residual, for_dense, for_experts = self._kernels.post_attention(
            x,
            attended,
            self.post_attention_layernorm.weight,
            self.pre_feedforward_layernorm.weight,
            self.pre_feedforward_layernorm_2.weight,
            self._eps,
        )
        routing = self.router(residual)  # it reads the raw residual, not a norm of it
        return self._kernels.layer_tail(
            residual,
            self.mlp(for_dense),
            self.experts(for_experts, routing),
            self.post_feedforward_layernorm_1.weight,
            self.post_feedforward_layernorm_2.weight,
            self.post_feedforward_layernorm.weight,
            self.layer_scalar,
            following.weight,
            self._eps,
        )
