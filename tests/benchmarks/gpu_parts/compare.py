"""Right or wrong: distance from a reference, and outputs that nobody wrote found out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

Results = Mapping[str, Tensor]
_GARBAGE = 2**31 - 90


class Distance(NamedTuple):
    """How far a result is from its reference, and how far it may be."""

    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # NaN is not


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """`norm(found - wanted) / norm(wanted)` in float64; NaN if either holds one."""
    if found.shape != wanted.shape:
        return float("inf")
    exact = wanted.double()
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def share_apart(found: Tensor, wanted: Tensor) -> float:
    """The share of ids that differ."""
    return float((found != wanted).double().mean())


def distances(found: Results, wanted: Results, allowed: Mapping[str, float]) -> dict[str, Distance]:
    """By the name of a result: ids by the share that differs, all else by its norm."""
    compared = {}
    for name, limit in allowed.items():
        ids = wanted[name].dtype == torch.int64
        measure = share_apart if ids else relative_error
        compared[name] = Distance(measure(found[name], wanted[name]), limit)
    return compared


def facts(compared: Mapping[str, Distance]) -> dict[str, Any]:
    """For a row of results."""
    return {
        "passed": all(each.passed for each in compared.values()),
        "errors": {name: _rounded(each.error) for name, each in compared.items()},
        "allowed": {name: each.allowed for name, each in compared.items()},
    }


def _rounded(error: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return float(f"{error:.3g}") if isfinite(error) else str(error)


@contextmanager
def poisoned(number: float = float("nan"), integer: int = _GARBAGE) -> Iterator[None]:
    """Memory that torch does not initialise holds these meanwhile."""
    owners: list[tuple[Any, str]] = [
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (Tensor, "new_empty"),
        (Tensor, "new_empty_strided"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name in owners]
    for owner, name, allocate in before:
        setattr(owner, name, _poisoning(allocate, number, integer))
    try:
        yield
    finally:
        for owner, name, allocate in before:
            setattr(owner, name, allocate)


def _poisoning(
    allocate: Callable[..., Tensor], number: float, integer: int
) -> Callable[..., Tensor]:
    def poisoned_memory(*arguments: Any, **options: Any) -> Tensor:
        made = allocate(*arguments, **options)
        if made.device.type == "meta":
            return made
        if made.is_floating_point() and made.element_size() > 1:
            return made.fill_(number)
        if made.is_floating_point():  # 0x7F is NaN in e4m3, 0 is 0
            made.view(torch.uint8).fill_(0x7F if number else 0)
            return made
        if made.dtype == torch.bool:
            return made.fill_(bool(integer))
        return made.fill_(min(integer, torch.iinfo(made.dtype).max))

    return poisoned_memory
