"""Which implementation serves each operation: decided once, then a plain table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dgemma_kernels.attention import attention_reference
from dgemma_kernels.attention_rows import AttentionRows
from dgemma_kernels.class_statistics import (
    ClassMaxima,
    ClassOrder,
    ClassStatistics,
    class_maxima,
    class_statistics,
)
from dgemma_kernels.experts import experts_reference
from dgemma_kernels.geglu import geglu_reference
from dgemma_kernels.heads import heads_reference
from dgemma_kernels.linear import linear_reference
from dgemma_kernels.norm import (
    layer_tail_reference,
    post_attention_reference,
    rms_norm_reference,
)
from dgemma_kernels.quantized import Matrix
from dgemma_kernels.routing import Routing, route_reference
from dgemma_kernels.vocab import Draws, VocabularyPass
from dgemma_kernels.vocab_pass import vocabulary_pass

Three = tuple[Tensor, Tensor, Tensor]


class VocabularyOperation(Protocol):
    """See `vocab_pass.vocabulary_pass`."""

    def __call__(
        self, hidden: Tensor, table: Tensor, cap: float, draws: Draws, *, guess: bool
    ) -> VocabularyPass:
        """One look at every logit of every row."""


@dataclass(frozen=True)
class Kernels:
    """One callable per operation; the references' docstrings say what each must return."""

    name: str
    rms_norm: Callable[[Tensor, Tensor | None, float], Tensor]
    post_attention: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Three]
    layer_tail: Callable[..., tuple[Tensor, Tensor]]
    heads: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, float], Three]
    attention: Callable[[Tensor, Tensor, Tensor, AttentionRows, bool, int | None], Tensor]
    geglu: Callable[[Tensor], Tensor]
    linear: Callable[[Tensor, Matrix], Tensor]
    route: Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Routing]
    experts: Callable[[Tensor, Tensor, Tensor, Matrix, Matrix], Tensor]
    vocabulary: VocabularyOperation
    class_maxima: Callable[[Tensor, Tensor, float, ClassOrder], ClassMaxima]
    class_statistics: Callable[[Tensor, Tensor, float, ClassOrder, Draws], ClassStatistics]


def reference_kernels() -> Kernels:
    """The plain torch implementations: the oracle of every other, and what CPUs run."""
    return Kernels(
        name="reference",
        rms_norm=rms_norm_reference,
        post_attention=post_attention_reference,
        layer_tail=layer_tail_reference,
        heads=heads_reference,
        attention=attention_reference,
        geglu=geglu_reference,
        linear=linear_reference,
        route=route_reference,
        experts=experts_reference,
        vocabulary=vocabulary_pass,
        class_maxima=class_maxima,
        class_statistics=class_statistics,
    )
