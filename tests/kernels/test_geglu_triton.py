"""The gated activation in Triton against the reference and against float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels.geglu import geglu_reference
from dgemma_kernels.geglu_triton import LARGEST_BLOCK, geglu_triton

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROUNDING = {torch.float32: 2e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
WIDTHS = [1, 2, 31, 704, LARGEST_BLOCK - 1, LARGEST_BLOCK, LARGEST_BLOCK + 1]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def geglu64(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def assert_near(found: Tensor, expected: Tensor, roundings: int = 1) -> None:
    assert found.shape == expected.shape
    step = 1.01 * roundings * ROUNDING[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=step, atol=1e-6)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tokens", [1, 3])
def test_the_gate_is_activated_and_multiplied_with_the_rest(
    tokens: int, width: int, dtype: torch.dtype, kernel_device: str
) -> None:
    gate_up = (numbers(tokens, 2 * width) * 2).to(kernel_device, dtype)
    found = geglu_triton(gate_up)
    assert found.dtype == dtype
    assert_near(found, geglu64(gate_up))
    assert_near(found, geglu_reference(gate_up), roundings=4)  # it rounds the gate by itself


def test_far_from_zero_a_gate_is_shut_or_wide_open(kernel_device: str) -> None:
    gate = torch.tensor([[-1e30, -200.0, -12.0, 0.0, 12.0, 200.0, 1e30]], device=kernel_device)
    found = geglu_triton(torch.cat((gate, torch.full_like(gate, 3.0)), dim=1))
    assert_near(found, 3 * gate.clamp(min=0))


def test_rows_of_any_stride_will_do(kernel_device: str) -> None:
    wide = numbers(5, 30).to(kernel_device)
    for gate_up in (wide[:, 3:13], wide[::2, :10], wide.t()[:, :4], wide[:1, :10].expand(3, 10)):
        found = geglu_triton(gate_up)
        assert found.is_contiguous()
        assert_near(found, geglu64(gate_up))
    assert geglu_triton(wide[:0]).shape == (0, 15)


def test_rows_may_lie_more_than_two_to_the_31_elements_apart(
    far_rows: Callable[[int], Tensor],
) -> None:
    gate_up = far_rows(8)
    assert_near(geglu_triton(gate_up), geglu64(gate_up))
