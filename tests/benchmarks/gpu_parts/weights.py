"""A model of random weights on the device: allocated, shared, converted in place."""

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from dgemma_backend.config import Encoding, ModelConfig
from dgemma_backend.model import DiffusionGemma, KVCache
from dgemma_backend.weights.encodings import empty_matrix, encoding_of, quantizer
from dgemma_backend.weights.formats import FP8, INT4
from dgemma_backend.weights.placing import install, memory_of, stored_matrices
from dgemma_kernels import Kernels
from dgemma_kernels.quantized import QuantizedMatrix

from .cases import Draw

_LOGIT_SPREAD = 4.0  # standard deviation of the logits before the softcap


def skeleton(config: ModelConfig, table: Kernels) -> DiffusionGemma:
    """A model without weights."""
    with torch.device("meta"):
        return DiffusionGemma(config, table).requires_grad_(False).eval()


def random_model(config: ModelConfig, table: Kernels, draw: Draw) -> DiffusionGemma:
    """Random weights such that every activation keeps its size, from embedding to logits."""
    model = skeleton(config, table)
    for name in list(model.state_dict()):
        install(model, name, _random(name, tuple(model.state_dict()[name].shape), draw))
    return model


def empty_model(config: ModelConfig, table: Kernels, form: str, draw: Draw) -> DiffusionGemma:
    """Memory in place of weights: enough to compile what a step launches."""
    model = skeleton(config, table)
    for name in list(model.state_dict()):
        shape = tuple(model.state_dict()[name].shape)
        encoding = encoding_in(name, form)
        made: Tensor | QuantizedMatrix = torch.ones(shape, dtype=draw.dtype, device=draw.device)
        if encoding is not None:
            made = empty_matrix(encoding, shape, draw.device)
        install(model, name, made)
    return model


def shared_model(model: DiffusionGemma, table: Kernels) -> DiffusionGemma:
    """The same weights, not copied, with other kernels."""
    other = skeleton(model.config, table)
    for name, matrix in stored_matrices(model):
        install(other, name, matrix)
    return other


def convert(model: DiffusionGemma, form: str, pause: Callable[[], None]) -> None:
    """Quantise what `form` quantises, matrix by matrix in place; `pause` is called between."""
    names = [name for name, _ in stored_matrices(model)]
    for name in names:
        encoding = encoding_in(name, form)
        if encoding is None:
            continue
        pause()
        path, _, leaf = name.rpartition(".")
        before = getattr(model.get_submodule(path), leaf)
        install(model, name, requantized(before, encoding, model.embed_tokens.weight.dtype))


def requantized(
    matrix: Tensor | QuantizedMatrix, encoding: Encoding, dtype: torch.dtype
) -> QuantizedMatrix:
    """The matrix in another encoding; the same one if it is in that already."""
    if isinstance(matrix, QuantizedMatrix) and encoding_of(matrix) == encoding:
        return matrix
    dense = matrix if isinstance(matrix, Tensor) else matrix.dequantize(dtype)
    return quantizer(encoding)(dense.detach())


def encoding_in(name: str, form: str) -> Encoding | None:
    """How the format stores the matrix of that name; None as it is."""
    if form == "bf16" or not name.startswith("layers."):
        return None
    if ".experts." in name:
        return INT4 if form == "int4" else FP8
    dense = (".self_attn." in name or ".mlp." in name) and name.endswith("_proj.weight")
    return FP8 if dense else None


def weight_bytes(model: DiffusionGemma) -> int:
    return sum(memory_of(matrix) for _, matrix in stored_matrices(model))


def random_cache(model: DiffusionGemma, prefix: int, draw: Draw) -> KVCache:
    """As if `prefix` tokens had been encoded: normalised keys and values, random ones."""
    cache, config = model.new_cache(), model.config
    for kind, layer in zip(config.layer_types, cache.layers, strict=True):
        sliding = kind == "sliding_attention"
        kept = min(prefix, config.sliding_window) if sliding else prefix
        heads = config.num_key_value_heads if sliding else config.num_global_key_value_heads
        width = config.head_dim if sliding else config.global_head_dim
        layer.append(draw.normal(kept, heads, width), draw.normal(kept, heads, width))
    cache.length = prefix
    return cache


def _random(name: str, shape: tuple[int, ...], draw: Draw) -> Tensor:
    if name == "embed_tokens.weight":
        return draw.normal(*shape, scale=_LOGIT_SPREAD * shape[1] ** -0.5)
    if name.endswith("layer_scalar"):
        return torch.ones(shape, dtype=draw.dtype, device=draw.device)
    if name.endswith("q_norm.weight"):  # scores are not scaled, so queries are
        return draw.norm_weight(shape[0]) / sqrt(shape[0])
    if name.endswith("router.proj.weight"):
        return draw.normal(*shape)
    return draw.norm_weight(shape[0]) if len(shape) == 1 else draw.weight(*shape)
