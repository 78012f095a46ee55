"""Projections of dense and float8 weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dgemma_kernels.linear_triton as linear
from dgemma_kernels.experts_fp8_triton import quantize_rows_fp8_triton
from dgemma_kernels.fp8 import Fp8Matrix
from dgemma_kernels.linear import linear_reference
from dgemma_kernels.linear_triton import W8A8_LINEAR_FORMATS, linear_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
SHAPES = [(1, 1, 1), (31, 127, 63), (32, 128, 64), (33, 129, 65), (65, 63, 3), (129, 65, 1)]


def has_float8() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9)


float8 = pytest.mark.skipif(not has_float8(), reason="this device has no float8")


def randn(*shape: int, seed: int, device: str) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def projection(
    tokens: int, columns: int, rows: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Fp8Matrix]:
    x = randn(tokens, columns, seed=1, device=device).to(dtype)
    weight = randn(rows, columns, seed=2, device=device) / columns**0.5
    return x, Fp8Matrix.quantize(weight)


def close(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found.double(), wanted, rtol=ROUNDING[found.dtype], atol=2e-6)


def test_dense_weights_are_multiplied_by_torch(kernel_device: str) -> None:
    x = randn(2, 3, 8, seed=1, device=kernel_device)
    weight = randn(5, 8, seed=2, device=kernel_device)
    parameter = torch.nn.Parameter(weight)
    assert torch.equal(linear_triton(x, weight), F.linear(x, weight))
    assert torch.equal(linear_triton(x, parameter).detach(), F.linear(x, weight))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "columns", "rows"), SHAPES)
def test_float8_weights_are_exactly_those_of_the_matrix(
    tokens: int, columns: int, rows: int, dtype: torch.dtype, kernel_device: str
) -> None:
    x, weight = projection(tokens, columns, rows, dtype, kernel_device)
    found = linear_triton(x, weight)
    assert found.dtype == dtype
    assert close(found, x.double() @ weight.dequantize(torch.float64).t())


@float8
@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "columns", "rows"), [SHAPES[0], SHAPES[1], SHAPES[3]])
def test_float8_products_are_those_of_the_rounded_rows(
    tokens: int, columns: int, rows: int, dtype: torch.dtype, kernel_device: str
) -> None:
    x, weight = projection(tokens, columns, rows, dtype, kernel_device)
    values, scale = quantize_rows_fp8_triton(x)
    rounded = values.double() * scale.double().unsqueeze(-1)
    found = linear_triton(x, weight, formats=W8A8_LINEAR_FORMATS)
    assert found.dtype == dtype
    assert close(found, rounded @ weight.dequantize(torch.float64).t())


@float8
def test_bytes_and_float8_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, kernel_device: str
) -> None:
    x, weight = projection(9, 70, 40, torch.bfloat16, kernel_device)
    straight = linear_triton(x, weight)
    monkeypatch.setattr(linear, "capability_of", lambda device: 80)
    assert torch.equal(linear_triton(x, weight), straight)


def test_quantising_costs_what_three_bits_of_mantissa_cost(kernel_device: str) -> None:
    x = randn(40, 96, seed=1, device=kernel_device)
    dense = randn(64, 96, seed=2, device=kernel_device)
    weight = Fp8Matrix.quantize(dense)
    found, wanted = linear_triton(x, weight), F.linear(x, dense)
    assert torch.allclose(found, linear_reference(x, weight), rtol=1e-5, atol=1e-5)
    error = float((found - wanted).norm() / wanted.norm())
    assert 0.01 < error < 0.04


def test_leading_axes_strides_and_a_second_run_give_the_same_bits(kernel_device: str) -> None:
    x, weight = projection(12, 48, 20, torch.bfloat16, kernel_device)
    first = linear_triton(x, weight)
    strided = torch.stack([x, x + 1], dim=1)[:, 0].view(3, 4, 48)
    transposed = Fp8Matrix(weight.values.t().contiguous().t(), weight.scale)
    second = linear_triton(strided, transposed)
    assert second.shape == (3, 4, 20)
    assert torch.equal(second.flatten(0, 1), first)


def test_no_rows_give_no_rows_and_wrong_ones_are_refused(kernel_device: str) -> None:
    x, weight = projection(2, 8, 4, torch.float32, kernel_device)
    assert linear_triton(x[:0], weight).shape == (0, 4)
    with pytest.raises(ValueError, match=r"rows of 7 .* of shape \(4, 8\): give rows of 8"):
        linear_triton(x[:, 1:], weight)


def test_a_kind_of_matrix_without_a_kernel_is_named(kernel_device: str) -> None:
    x, weight = projection(1, 4, 4, torch.float32, kernel_device)
    with pytest.raises(TypeError, match="multiplies Fp8Matrix, only Tensor"):
        linear_triton(x, weight, formats={Tensor: F.linear})
