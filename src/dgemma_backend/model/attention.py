"""Self-attention over [cached prefix | new tokens]."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.cache import KVCache
from dgemma_backend.model.linear import Linear
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import Angles
from dgemma_kernels import AttentionRow, AttentionRows, Kernels


class Batch(NamedTuple):
    """Sequences laid one after another: row r owns tokens `[bounds[r], bounds[r + 1])`."""

    bounds: tuple[int, ...]
    caches: Sequence[KVCache]
    encoding: bool  # causal and writing the caches; else two-way and only reading them
    rows: tuple[AttentionRows, ...]  # one a layer: where each sequence's prefix lies


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
        hidden, width = config.hidden_size, self.head_dim
        self.q_proj = Linear(hidden, self.heads * width, kernels)
        self.k_proj = Linear(hidden, self.kv_heads * width, kernels)
        self.v_proj = None if self.full else Linear(hidden, self.kv_heads * width, kernels)
        self.o_proj = Linear(self.heads * width, hidden, kernels)
        self.q_norm = RMSNorm(kernels, config.rms_norm_eps, width)
        self.k_norm = RMSNorm(kernels, config.rms_norm_eps, width)

    def rows(
        self, bounds: Sequence[int], caches: Sequence[KVCache], *, encoding: bool
    ) -> AttentionRows:
        """What each sequence sees of its prefix here, as views into its cache."""
        reach = (self.window and self.window - 1) if encoding else self.canvas_reach
        none = self.q_norm.weight.detach().new_empty(self.kv_heads, 0, self.head_dim)
        return AttentionRows(
            AttentionRow(start, stop, *cache.layers[self.layer].prefix(none, reach))
            for start, stop, cache in zip(bounds[:-1], bounds[1:], caches, strict=True)
        )

    def forward(self, x: Tensor, angles: Angles, batch: Batch) -> Tensor:
        """`(T, hidden)` -> `(T, hidden)`; appends to the caches when the batch is encoding."""
        q, k, v = self._project(x, angles)
        window = self.window if batch.encoding else None
        rows = batch.rows[self.layer]
        out = self._kernels.attention(q, k, v, rows, batch.encoding, window)
        if batch.encoding:
            for row, cache in zip(rows, batch.caches, strict=True):
                mine = slice(row.start, row.stop)
                cache.layers[self.layer].append(k[mine], v[mine])
        projected: Tensor = self.o_proj(out.reshape(x.shape[0], -1))
        return projected

    def _project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """`(T, hidden)` -> q `(T, H, D)`, k and v `(T, KV heads, D)`, normalised and rotated."""
        tokens = x.shape[0]
        keys = self.k_proj(x).view(tokens, self.kv_heads, self.head_dim)
        return self._kernels.heads(
            self.q_proj(x).view(tokens, self.heads, self.head_dim),
            keys,
            None if self.v_proj is None else self.v_proj(x).view_as(keys),
            self.q_norm.weight,
            self.k_norm.weight,
            angles.cos,
            angles.sin,
            self.q_norm.eps,
        )
