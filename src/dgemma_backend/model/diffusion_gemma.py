"""The whole network and its two passes: `encode` (causal, writes) and `denoise` (reads)."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.attention import Batch
from dgemma_backend.model.cache import KVCache
from dgemma_backend.model.embedding import Embedding
from dgemma_backend.model.experts import Router
from dgemma_backend.model.layer import Layer
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import angles_for
from dgemma_backend.model.self_conditioning import SelfConditioning
from dgemma_kernels import Kernels, reference_kernels


class DiffusionGemma(nn.Module):
    """A block-diffusion mixture-of-experts transformer (DiffusionGemma model card).

    Parameters are named as in the published checkpoint, without its `model.decoder.` prefix.
    The encoder shares every one of them, so it has none of its own.
    """

    def __init__(self, config: ModelConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        kernels = kernels or reference_kernels()
        self.config = config
        self.kernels = kernels
        self.embed_tokens = Embedding(config, kernels)
        self.layers = nn.ModuleList(
            Layer(config, index, kernels) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(kernels, config.rms_norm_eps, config.hidden_size)
        self.self_conditioning = SelfConditioning(config, kernels)
        self.router_probs: list[Tensor] = []

    @property
    def record_router(self) -> bool:
        """While set, every pass adds its router probabilities `(T, E)` float32, a tensor a
        layer, to `router_probs`; emptying that list is the caller's."""
        return self._routers()[0].recorded is not None

    @record_router.setter
    def record_router(self, record: bool) -> None:
        for router in self._routers():
            router.recorded = self.router_probs if record else None

    def _routers(self) -> list[Router]:
        return [module for module in self.modules() if isinstance(module, Router)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    def new_cache(self) -> KVCache:
        """An empty cache for one sequence."""
        return KVCache(self.config)

    def encode(self, rows: Sequence[Tensor], caches: Sequence[KVCache]) -> Tensor:
        """Ids, one 1-D tensor per sequence -> final hidden states `(T, hidden)`, rows joined.

        Causal. Appends to each row's own cache, so a prompt may come in pieces of any size
        with the same result. Takes part in autograd.
        """
        bounds = tuple(accumulate((row.numel() for row in rows), initial=0))
        batch = Batch(bounds, caches, encoding=True)
        x = self._through_layers(self.embed_tokens(torch.cat(list(rows))), batch)
        for row, cache in zip(rows, caches, strict=True):
            cache.length += row.numel()
        normed: Tensor = self.norm(x)
        return normed

    def denoise(self, canvas: Tensor, guess: Tensor | None, caches: Sequence[KVCache]) -> Tensor:
        """Canvas ids `(B, L)`, guess `(B, L, hidden)` or None -> logits `(B, L, V)` float32.

        Every canvas token sees its row's prefix and the whole canvas. Reads the caches only;
        one cache may serve several rows. Logits are softcapped, no temperature applied.
        """
        count, length = canvas.shape
        batch = Batch(tuple(range(0, count * length + 1, length)), caches, encoding=False)
        soft = None if guess is None else guess.flatten(0, 1)
        x = self.self_conditioning.condition(self.embed_tokens(canvas.flatten()), soft)
        hidden = self.norm(self._through_layers(x, batch))
        return self.lm_logits(hidden).view(count, length, -1)

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """`(N, hidden)` after the final norm -> `(N, V)` float32 logits, softcapped."""
        return self.embed_tokens.logits(hidden)

    def guess(
        self, logits: Tensor, temperature: float | Tensor, log_total: Tensor | None = None
    ) -> Tensor:
        """Logits `(B, L, V)`, temperature (a number or `(B,)`) -> `(B, L, hidden)`.

        The self-conditioning signal of the next step: the expected embedding under
        softmax(logits / temperature). `log_total (B, L)` is that softmax's log-sum-exp.
        """
        count, length, _ = logits.shape
        each = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device)
        rows = each.reshape(-1, 1).expand(count, length).flatten()
        known = None if log_total is None else log_total.flatten()
        return self.embed_tokens.soft(logits.flatten(0, 1), rows, known).view(count, length, -1)

    def _through_layers(self, x: Tensor, batch: Batch) -> Tensor:
        angles = angles_for(self.config, self._positions(batch), x.dtype)
        for layer, kind in zip(self.layers, self.config.layer_types, strict=True):
            x = layer(x, angles[kind], batch)
        return x

    def _positions(self, batch: Batch) -> Tensor:
        """`(T,)`: each row counts on from what its cache holds."""
        spans = zip(batch.bounds[:-1], batch.bounds[1:], batch.caches, strict=True)
        counted = [
            torch.arange(cache.length, cache.length + stop - start) for start, stop, cache in spans
        ]
        return torch.cat(counted).to(self.device)
