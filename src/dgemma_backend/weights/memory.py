"""What a model takes of a device's memory, from its config.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import SettingError
from dgemma_backend.weights.checkpoint import plan_for
from dgemma_backend.weights.encodings import template
from dgemma_backend.weights.expected import encodings
from dgemma_backend.weights.formats import QuantizationFormat
from dgemma_backend.weights.layout import text_shapes

MAX_CANVASES = 1024
_SMALLEST_BUFFER = 64  # positions a layer's cache begins with; it then grows by doubling
_PREFILL_PIECE = 512  # tokens of a prompt in one pass, as the engine cuts it


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a device that a model takes while it answers.

    Not counted: what the runtime itself holds (about half a gigabyte with CUDA), and the gaps
    that the allocator leaves.

    Attributes:
        weights: By part of the model: "experts", "attention and MLP", "embedding", "other".
        cache: Keys and values of the context, with the room that buffers grow into.
        canvas: Logits and activations of the widest pass.
    """

    weights: Mapping[str, int]
    cache: int
    canvas: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + self.cache + self.canvas


def memory_needed(
    config: ModelConfig,
    quantization: QuantizationFormat | None = None,
    context: int = 8192,
    canvases: int = 1,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> MemoryEstimate:
    """What `config` takes with `context` tokens before each of `canvases` denoised together.

    Quantised matrices are counted as `config` says they are stored, else as `quantization`
    would; everything else in `dtype`. The vision tower is not loaded. Raises SettingError for
    numbers out of range and for quantised weights that are to be quantised again.
    """
    for name, value, most in (
        ("context", context, config.max_position_embeddings),
        ("canvases", canvases, MAX_CANVASES),
    ):
        if not 1 <= value <= most:
            raise SettingError(
                f"{name}={value} must be a whole number from 1 to {most}, the most this model takes"
            )
    return MemoryEstimate(
        _weights(config, quantization, dtype.itemsize),
        canvases * _cache(config, context, dtype.itemsize),
        _canvas(config, context, canvases, dtype.itemsize),
    )


def _weights(
    config: ModelConfig, quantization: QuantizationFormat | None, width: int
) -> dict[str, int]:
    planned = plan_for("the checkpoint", config, quantization)
    encoded = {name: each.encoding for name, each in planned.items()} or encodings(config)
    found = dict.fromkeys(("experts", "attention and MLP", "embedding", "other"), 0)
    for name, shape in text_shapes(config).items():
        encoding = encoded.get(name)
        bytes = math.prod(shape) * width if encoding is None else template(encoding, shape).bytes
        found[_part_of(name)] += bytes
    return found


def _part_of(name: str) -> str:
    if ".experts." in name:
        return "experts"
    if name.startswith("layers.") and name.endswith("_proj.weight"):
        return "attention and MLP"
    return "embedding" if name.startswith("embed_tokens.") else "other"


def _cache(config: ModelConfig, context: int, width: int) -> int:
    """Bytes of keys and values of one sequence, as `model.cache` lets its buffers grow."""
    doublings = math.ceil(math.log2(max(1.0, context / _SMALLEST_BUFFER)))
    everything = _SMALLEST_BUFFER << doublings
    window = min(max(_SMALLEST_BUFFER, 2 * context), 2 * config.sliding_window)
    full = config.num_global_key_value_heads * config.global_head_dim * everything
    sliding = config.num_key_value_heads * config.head_dim * window
    each = {"full_attention": full, "sliding_attention": sliding}
    return 2 * width * sum(each[kind] for kind in config.layer_types)


def _canvas(config: ModelConfig, context: int, canvases: int, width: int) -> int:
    """Logits of the canvases, and the activations of a layer in the widest pass."""
    tokens = canvases * config.canvas_length
    logits = tokens * config.vocab_size * width
    hidden, narrow = config.hidden_size, config.moe_intermediate_size
    heads = config.num_attention_heads * max(config.head_dim, config.global_head_dim)
    a_token = (
        8 * hidden  # residual, norms, branches and the guess
        + 3 * heads  # queries before and after rotation, and what attention gives
        + 3 * config.intermediate_size
        + config.top_k_experts * (3 * narrow + hidden)
    )
    return logits + max(tokens, min(_PREFILL_PIECE, context)) * a_token * width
