"""The whole network and its two passes: `encode` (causal, writes) and `denoise` (reads)."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.attention import Batch
from dgemma_backend.model.cache import KVCache
from dgemma_backend.model.canvas_logits import CanvasLogits
from dgemma_backend.model.embedding import Embedding
from dgemma_backend.model.experts import Router
from dgemma_backend.model.layer import Layer
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import Angles, angles_for
from dgemma_backend.model.self_conditioning import SelfConditioning
from dgemma_kernels import AttentionRows, Kernels, reference_kernels


class Context(NamedTuple):
    """What tokens see and where they stand: the same for every step of a canvas.

    Holds views into the caches, so encoding into one of them makes it void.
    """

    batch: Batch
    angles: dict[str, Angles]

    @property
    def longest_prefix(self) -> int:
        """Tokens in the longest of the caches."""
        return max(cache.length for cache in self.batch.caches)

    def copy(self) -> "Context":
        """Its own angles and tables, for `load` to overwrite; the caches are shared."""
        rows = tuple(AttentionRows(each) for each in self.batch.rows)
        angles = {kind: Angles(*(x.clone() for x in each)) for kind, each in self.angles.items()}
        return Context(self.batch._replace(rows=rows), angles)

    def load(self, other: "Context") -> None:
        """See and stand where `other` does, in place; it must have as many rows and tokens."""
        for mine, theirs in zip(self.batch.rows, other.batch.rows, strict=True):
            mine.load(theirs)
        for kind, angles in self.angles.items():
            for x, y in zip(angles, other.angles[kind], strict=True):
                x.copy_(y)


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
    def _stack(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for one sequence, with room for `capacity` tokens at once."""
        return KVCache(self.config, capacity)

    def encode(self, rows: Sequence[Tensor], caches: Sequence[KVCache]) -> Tensor:
        """Ids, one 1-D tensor per sequence -> final hidden states `(T, hidden)`, rows joined.

        Causal. Appends to each row's own cache, so a prompt may come in pieces of any size
        with the same result. Takes part in autograd.
        """
        context = self._context([row.numel() for row in rows], caches, encoding=True)
        hidden = self._through_layers(self.embed_tokens(torch.cat(list(rows))), context)
        for row, cache in zip(rows, caches, strict=True):
            cache.length += row.numel()
        return hidden

    def canvas_context(self, caches: Sequence[KVCache], length: int | None = None) -> Context:
        """What canvases of `length` tokens (the model's own if None) after `caches` see.

        One cache may stand for several canvases. Good for every step until one of the caches
        is encoded into.
        """
        each = self.config.canvas_length if length is None else length
        return self._context([each] * len(caches), caches, encoding=False)

    def denoise(self, canvas: Tensor, guess: Tensor | None, context: Context) -> CanvasLogits:
        """Canvas ids `(B, L)`, guess `(B, L, hidden)` or None -> logits of every position.

        Every canvas token sees its row's prefix and the whole canvas. Reads the caches only.
        """
        soft = None if guess is None else guess.flatten(0, 1)
        x = self.self_conditioning.condition(self.embed_tokens(canvas.flatten()), soft)
        hidden = self._through_layers(x, context)
        return CanvasLogits(hidden.view(*canvas.shape, -1), self.embed_tokens)

    def guess(self, logits: Tensor, temperature: float | Tensor) -> Tensor:
        """Logits `(B, L, V)` written out, temperature (a number or `(B,)`) -> `(B, L, hidden)`.

        The self-conditioning signal: the expected embedding under softmax(logits / temperature).
        """
        each = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device)
        return self.embed_tokens.soft(logits, each.reshape(-1, 1, 1))

    def _context(
        self, lengths: Sequence[int], caches: Sequence[KVCache], *, encoding: bool
    ) -> Context:
        bounds = tuple(accumulate(lengths, initial=0))
        rows = tuple(
            layer.self_attn.rows(bounds, caches, encoding=encoding) for layer in self._stack
        )
        positions = torch.cat(
            [
                torch.arange(cache.length, cache.length + stop - start)
                for (start, stop), cache in zip(pairwise(bounds), caches, strict=True)
            ]
        ).to(self.device)
        angles = angles_for(self.config, positions, self.embed_tokens.weight.dtype)
        return Context(Batch(bounds, caches, encoding, rows), angles)

    def _through_layers(self, x: Tensor, context: Context) -> Tensor:
        """Embedded tokens `(T, hidden)` -> `(T, hidden)` after the final norm."""
        stack = self._stack
        following = [layer.input_layernorm for layer in stack[1:]] + [self.norm]
        normed: Tensor = stack[0].input_layernorm(x)
        for layer, kind, norm in zip(stack, self.config.layer_types, following, strict=True):
            x, normed = layer(x, normed, context.angles[kind], context.batch, norm)
        return normed
