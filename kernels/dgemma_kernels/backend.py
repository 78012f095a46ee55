"""Which implementation serves each operation: decided once, then a plain table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgemma_kernels.attention import AttentionRow, attention_reference
from dgemma_kernels.experts import choose_experts_reference, experts_reference
from dgemma_kernels.geglu import geglu_reference
from dgemma_kernels.norm import rms_norm_reference
from dgemma_kernels.rope import rotate_reference
from dgemma_kernels.vocab import (
    VocabularyStatistics,
    soft_embedding_reference,
    softcap_reference,
    vocabulary_statistics_reference,
)


@dataclass(frozen=True)
class Kernels:
    """One callable per operation; the references' docstrings say what each must return."""

    name: str
    rms_norm: Callable[[Tensor, Tensor | None, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    geglu: Callable[[Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, Sequence[AttentionRow], bool, int | None], Tensor]
    choose_experts: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
    experts: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    softcap: Callable[[Tensor, float], Tensor]
    vocabulary_statistics: Callable[[Tensor, Tensor, Tensor], VocabularyStatistics]
    soft_embedding: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def reference_kernels() -> Kernels:
    """The plain torch implementations: the oracle of every other, and what CPUs run."""
    return Kernels(
        name="reference",
        rms_norm=rms_norm_reference,
        rotate=rotate_reference,
        geglu=geglu_reference,
        attention=attention_reference,
        choose_experts=choose_experts_reference,
        experts=experts_reference,
        softcap=softcap_reference,
        vocabulary_statistics=vocabulary_statistics_reference,
        soft_embedding=soft_embedding_reference,
    )
