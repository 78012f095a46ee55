"""The DiffusionGemma network: one stack of layers, used as causal encoder and canvas decoder."""

from dgemma_backend.model.cache import KVCache
from dgemma_backend.model.canvas_logits import CanvasLogits
from dgemma_backend.model.diffusion_gemma import DiffusionGemma

__all__ = ["CanvasLogits", "DiffusionGemma", "KVCache"]
