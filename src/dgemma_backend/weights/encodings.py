"""The kinds of quantised matrices, by the names that configurations give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from dgemma_backend.config import Encoding
from dgemma_kernels.quantized import Fp4Matrix, Fp8Matrix, Int4Matrix, QuantizedMatrix

_SMALL = 1 << 20
Quantize = Callable[[Tensor], QuantizedMatrix]


@cache
def quantizer(encoding: Encoding) -> Quantize:
    """What makes a matrix of this encoding of a dense one, `(..., N, K)`, on any device."""
    if encoding.kind == "int4":
        return partial(Int4Matrix.quantize, group=encoding.group)
    return {"fp8": Fp8Matrix.quantize, "nvfp4": Fp4Matrix.quantize}[encoding.kind]


def encoding_of(matrix: object) -> Encoding | None:
    """The encoding of a matrix, None for anything that no kernel takes as quantised."""
    if isinstance(matrix, Int4Matrix):
        return Encoding("int4", matrix.group)
    if isinstance(matrix, Fp8Matrix):
        return Encoding("fp8", 0)
    return Encoding("nvfp4", 16) if isinstance(matrix, Fp4Matrix) else None


@cache
def template(encoding: Encoding, shape: tuple[int, ...]) -> QuantizedMatrix:
    """A matrix of this shape whose parts are on the meta device: their dtypes and shapes."""
    *leading, rows, columns = shape
    # The first operation on the meta device takes torch a second; a small matrix takes nothing.
    device = "cpu" if rows * columns <= _SMALL else "meta"
    one = quantizer(encoding)(torch.zeros(rows, columns, device=device))
    parts = {
        name: torch.empty((*leading, *part.shape), dtype=part.dtype, device="meta")
        for name, part in one.parts.items()
    }
    return replace(one, **parts)


def empty_matrix(
    encoding: Encoding, shape: tuple[int, ...], device: torch.device
) -> QuantizedMatrix:
    """A matrix of this shape whose parts are allocated and not filled."""
    meta = template(encoding, shape)
    parts = {name: torch.empty_like(part, device=device) for name, part in meta.parts.items()}
    return replace(meta, **parts)
