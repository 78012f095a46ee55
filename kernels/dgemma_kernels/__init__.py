"""The operations a DiffusionGemma forward pass is made of, tensors in, tensors out.

This package knows nothing of checkpoints, requests or frameworks. Each module holds one
operation: its plain torch reference, and beside it, in a module that ends in `_triton`, the
kernels for GPUs. `backend.Kernels` is the table a model is built with.
"""

from dgemma_kernels.attention_rows import AttentionRow, AttentionRows
from dgemma_kernels.backend import Kernels, reference_kernels
from dgemma_kernels.class_statistics import (
    ClassMaxima,
    ClassOrder,
    ClassStatistics,
    class_order,
)
from dgemma_kernels.vocab import Draws, VocabularyPass

__all__ = [
    "AttentionRow",
    "AttentionRows",
    "ClassMaxima",
    "ClassOrder",
    "ClassStatistics",
    "Draws",
    "Kernels",
    "VocabularyPass",
    "class_order",
    "reference_kernels",
]
