"""Self-attention over [cached prefix | new tokens]."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.cache import KVCache
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import Angles
from dgemma_kernels import AttentionRow, Kernels


class Batch(NamedTuple):
    """Sequences laid one after another: row r owns tokens `[bounds[r], bounds[r + 1])`."""

    bounds: tuple[int, ...]
    caches: Sequence[KVCache]
    encoding: bool  # causal and writing the caches; else two-way and only reading them


class Attention(nn.Module):
    """Grouped-query attention with normalised queries, keys and values.

    Full layers have wider heads, fewer of them for keys, and take their values from the key
    projection, before its norm and rotation.
    """

    def __init__(self, config: ModelConfig, layer: int, kernels: Kernels) -> None:
        super().__init__()
        self.layer = layer
        self.full = config.layer_types[layer] == "full_attention"
        self.window = None if self.full else config.sliding_window
        self.canvas_reach = None if self.full else config.canvas_prefix_window
        self.heads = config.num_attention_heads
        self.kv_heads = (
            config.num_global_key_value_heads if self.full else config.num_key_value_heads
        )
        self.head_dim = config.global_head_dim if self.full else config.head_dim
        self._kernels = kernels

        def linear(inside: int, outside: int) -> nn.Linear:
            return nn.Linear(inside, outside, bias=False)

        hidden, width = config.hidden_size, self.head_dim
        self.q_proj = linear(hidden, self.heads * width)
        self.k_proj = linear(hidden, self.kv_heads * width)
        self.v_proj = None if self.full else linear(hidden, self.kv_heads * width)
        self.o_proj = linear(self.heads * width, hidden)
        self.q_norm = RMSNorm(kernels, config.rms_norm_eps, width)
        self.k_norm = RMSNorm(kernels, config.rms_norm_eps, width)
        self.v_norm = RMSNorm(kernels, config.rms_norm_eps)

    def forward(self, x: Tensor, angles: Angles, batch: Batch) -> Tensor:
        """`(T, hidden)` -> `(T, hidden)`; appends to the caches when the batch is encoding."""
        q, k, v = self._project(x, angles)
        reach = (self.window and self.window - 1) if batch.encoding else self.canvas_reach
        rows = [
            AttentionRow(start, stop, *cache.layers[self.layer].prefix(k, reach))
            for start, stop, cache in _spans(batch)
        ]
        window = self.window if batch.encoding else None
        out = self._kernels.attention(q, k, v, rows, batch.encoding, window)
        if batch.encoding:
            for start, stop, cache in _spans(batch):
                cache.layers[self.layer].append(k[start:stop], v[start:stop])
        projected: Tensor = self.o_proj(out.reshape(x.shape[0], -1))
        return projected

    def _project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """`(T, hidden)` -> q `(T, H, D)`, k and v `(T, KV heads, D)`, normalised and rotated."""
        tokens = x.shape[0]
        q = self.q_norm(self.q_proj(x).view(tokens, self.heads, self.head_dim))
        raw_k = self.k_proj(x).view(tokens, self.kv_heads, self.head_dim)
        raw_v = raw_k if self.v_proj is None else self.v_proj(x).view_as(raw_k)
        k = self._kernels.rotate(self.k_norm(raw_k), angles.cos, angles.sin)
        return self._kernels.rotate(q, angles.cos, angles.sin), k, self.v_norm(raw_v)


def _spans(batch: Batch) -> list[tuple[int, int, KVCache]]:
    return list(zip(batch.bounds[:-1], batch.bounds[1:], batch.caches, strict=True))
