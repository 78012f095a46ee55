"""The operations a DiffusionGemma forward pass is made of, tensors in, tensors out.

This package knows nothing of checkpoints, requests or frameworks. Each module holds one
operation: its plain torch reference, and beside it whatever runs faster. `backend.Kernels` is
the table a model is built with.
"""

from dgemma_kernels.attention import AttentionRow
from dgemma_kernels.backend import Kernels, reference_kernels
from dgemma_kernels.vocab import VocabularyStatistics

__all__ = ["AttentionRow", "Kernels", "VocabularyStatistics", "reference_kernels"]
