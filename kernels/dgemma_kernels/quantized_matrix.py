"""What the quantised matrices have in common: parts that share their leading axes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

_AT_ONCE = 1 << 20  # weights quantised together, so that temporaries stay small


@dataclass(frozen=True, eq=False)
class QuantizedMatrix(ABC):
    """`(..., N, K)` weights kept as small numbers and scales; `...` are experts, or nothing."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape of the dense matrix, `(..., N, K)`."""

    @abstractmethod
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dense matrix `(..., N, K)`: multiplied in float32 or wider, then rounded once."""

    @property
    def parts(self) -> dict[str, Tensor]:
        """The tensors it is made of, by field name: what a checkpoint has to keep."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in named.items() if isinstance(part, Tensor)}

    @property
    def bytes(self) -> int:
        """Memory of all parts."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return next(iter(self.parts.values())).device

    def to(self, device: torch.device | str) -> Self:
        """The same matrix on another device."""
        return replace(self, **{name: part.to(device) for name, part in self.parts.items()})

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """The expert at `index` of the first axis, or several; views where torch gives views."""
        if len(self.shape) < 3:
            raise ValueError(
                f"a single matrix of shape {tuple(self.shape)} has no expert {index!r}: index "
                f"matrices of shape (experts, N, K), or dequantize() and index the dense one"
            )
        return replace(self, **{name: part[index] for name, part in self.parts.items()})


def check_part(name: str, part: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `part` has just this dtype and shape."""
    if part.dtype != dtype or tuple(part.shape) != shape:
        raise ValueError(
            f"{name} is {part.dtype} of shape {tuple(part.shape)}, expected {dtype} of shape "
            f"{shape}: build it with quantize() or from published parts, not by hand"
        )


def check_dense(dense: Tensor) -> None:
    """Raise ValueError unless `dense` is `(..., N, K)`, floating and finite throughout."""
    if dense.ndim < 2 or dense.shape[-1] == 0 or not dense.is_floating_point():
        raise ValueError(
            f"cannot quantise {dense.dtype} of shape {tuple(dense.shape)}: "
            f"give floating-point weights of shape (..., N, K)"
        )


def check_finite(rows: Tensor) -> None:
    """Raise ValueError if a NaN or an infinity is among the weights (not asked on meta)."""
    if rows.is_meta:
        return
    if bad := int((~rows.isfinite()).sum()):
        raise ValueError(
            f"{bad} of {rows.numel()} weights are NaN or infinite, which no scale can cover: "
            f"repair or download the checkpoint again"
        )


def row_blocks(dense: Tensor) -> Iterator[slice]:
    """Slices over the rows of all experts, each a bounded number of weights (on meta, all)."""
    rows = dense.numel() // dense.shape[-1]
    step = max(1, rows if dense.is_meta else _AT_ONCE // dense.shape[-1])
    return (slice(start, start + step) for start in range(0, rows, step))
