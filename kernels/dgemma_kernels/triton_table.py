"""The table of Triton kernels. Importing it needs Triton."""

from dgemma_kernels.attention_triton import attention_triton
from dgemma_kernels.backend import Kernels
from dgemma_kernels.class_statistics_triton import class_maxima_triton, class_statistics_triton
from dgemma_kernels.experts_triton import experts_triton
from dgemma_kernels.geglu_triton import geglu_triton
from dgemma_kernels.heads_triton import heads_triton
from dgemma_kernels.linear_triton import linear_triton
from dgemma_kernels.norm_triton import layer_tail_triton, post_attention_triton, rms_norm_triton
from dgemma_kernels.routing_triton import route_triton
from dgemma_kernels.vocab_triton import vocabulary_pass_triton


def triton_kernels() -> Kernels:
    """Every operation as a Triton kernel, for CUDA devices of capability 8.0 and newer."""
    return Kernels(
        name="triton",
        rms_norm=rms_norm_triton,
        post_attention=post_attention_triton,
        layer_tail=layer_tail_triton,
        heads=heads_triton,
        attention=attention_triton,
        geglu=geglu_triton,
        linear=linear_triton,
        route=route_triton,
        experts=experts_triton,
        vocabulary=vocabulary_pass_triton,
        class_maxima=class_maxima_triton,
        class_statistics=class_statistics_triton,
    )
