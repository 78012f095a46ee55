"""A kernel on one input: how the input is made, what is run, and the least time it can take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from dgemma_kernels import AttentionRow, AttentionRows, Kernels, reference_kernels

from .compare import Results
from .roofline import Ceilings, Load, Work
from .shapes import KERNEL_FORMATS

Operands = Mapping[str, Any]


class Draw:
    """Fresh random numbers on one device, in one dtype."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        made = torch.empty(shape, dtype=self.dtype, device=self.device)
        return made.normal_(mean, scale, generator=self.generator)

    def weight(self, *shape: int) -> Tensor:
        """A matrix that keeps the size of what it multiplies."""
        return self.normal(*shape, scale=shape[-1] ** -0.5)

    def norm_weight(self, width: int) -> Tensor:
        return self.normal(width, scale=0.1, mean=1.0)

    def uniform(self, count: int) -> Tensor:
        """Float64 in (0, 1)."""
        made = torch.rand(count, dtype=torch.float64, device=self.device, generator=self.generator)
        return made.clamp_(1e-9, 1 - 1e-9)

    def ids(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, device=self.device, generator=self.generator)


@dataclass(frozen=True)
class Case:
    """`run(table, operands)` gives named results; `allowed` is how far each may be off."""

    kernel: str  # its name in the table
    what: str
    form: str  # of the weights
    load: Load
    works: tuple[Work, ...]
    allowed: Mapping[str, float]
    make: Callable[[Draw], Operands]
    run: Callable[[Kernels, Operands], Results]

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.what}"

    def floor_ms(self, ceilings: Ceilings) -> float:
        return sum(work.floor_ms(ceilings) for work in self.works)


@cache
def tables() -> Mapping[str, Kernels]:
    """Our tables by the format of the weights they are for."""
    from dgemma_kernels.experts_triton import W8A8_FORMATS, experts_triton
    from dgemma_kernels.linear_triton import W8A8_LINEAR_FORMATS, linear_triton
    from dgemma_kernels.triton_table import triton_kernels

    plain = triton_kernels()
    w8a8 = replace(
        plain,
        name="triton, w8a8",
        experts=partial(experts_triton, formats=W8A8_FORMATS),
        linear=partial(linear_triton, formats=W8A8_LINEAR_FORMATS),
    )
    return {form: w8a8 if form == "w8a8" else plain for form in KERNEL_FORMATS}


def wanted(case: Case, operands: Operands) -> Results:
    """What the plain torch reference makes of the same numbers in float32."""
    exact = {name: upcast(each) for name, each in operands.items()}
    return case.run(reference_kernels(), exact)


def upcast(operand: Any) -> Any:
    """The same numbers in float32; quantised matrices stay as they are."""
    if isinstance(operand, AttentionRows):
        return AttentionRows(
            AttentionRow(row.start, row.stop, row.prefix_keys.float(), row.prefix_values.float())
            for row in operand
        )
    if isinstance(operand, Tensor) and operand.dtype == torch.bfloat16:
        return operand.float()
    return operand
