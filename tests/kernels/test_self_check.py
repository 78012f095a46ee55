"""A kernel that is wrong on a device is found, named and replaced; the others stay."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dgemma_kernels import Kernels, reference_kernels
from dgemma_kernels.self_check import checked

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def triton() -> Kernels:
    from dgemma_kernels.triton_table import triton_kernels

    return triton_kernels()


@pytest.mark.slow
def test_every_triton_kernel_passes(triton: Kernels) -> None:
    table, problems = checked(triton, CPU, torch.bfloat16)
    assert problems == []
    assert table == triton


def off_by_a_twentieth(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return reference_kernels().rms_norm(x, weight, eps) * 1.05


def poisoned(gate_up: Tensor) -> Tensor:
    return reference_kernels().geglu(gate_up) * float("nan")


def failing(*args: Any) -> Any:
    raise RuntimeError("invalid argument")


def test_wrong_poisoned_and_failing_kernels_give_their_place_to_the_reference() -> None:
    mine = replace(
        reference_kernels(), name="planted", rms_norm=off_by_a_twentieth, geglu=poisoned,
        route=failing,
    )  # fmt: skip
    table, problems = checked(mine, CPU, torch.float32)
    assert [problem.split(" on ")[0] for problem in problems] == [
        "planted kernel 'rms_norm' is wrong",
        "planted kernel 'geglu' is wrong",
        "planted kernel 'route' failed",
    ]
    assert "off by 0.05 of its size, 0.001 allowed" in problems[0]
    assert "RuntimeError: invalid argument" in problems[2]
    plain = reference_kernels()
    assert (table.rms_norm, table.geglu, table.route) == (plain.rms_norm, plain.geglu, plain.route)
    assert (table.name, table.attention) == ("planted", mine.attention)


def test_every_operation_of_the_table_is_checked() -> None:
    broken: dict[str, Any] = dict.fromkeys(Kernels.__dataclass_fields__, failing)
    _, problems = checked(Kernels(**{**broken, "name": "none"}), CPU, torch.float32)
    assert len(problems) == len(broken) - 1
