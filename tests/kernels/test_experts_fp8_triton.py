"""Float8 experts: the kernels' error and the error of quantising are looked at apart."""

import math

import pytest
import torch
from torch import Tensor

import dgemma_kernels.experts_fp8_triton as experts_fp8
from dgemma_kernels.experts import experts_reference
from dgemma_kernels.experts_fp8_triton import (
    decoded_weights,
    down_fp8_triton,
    down_w8a8_triton,
    gate_up_fp8_triton,
    gate_up_w8a8_triton,
    quantize_rows_fp8_triton,
)
from dgemma_kernels.experts_triton import (
    FORMATS,
    W8A8_FORMATS,
    Formats,
    down_triton,
    experts_triton,
    gate_up_triton,
)
from dgemma_kernels.fp8 import Fp8Matrix
from dgemma_kernels.routing_triton import sort_slots_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
# (slots, columns, rows of the matrix): one below, at and above each block, and 1
SHAPES = [(1, 1, 2), (7, 127, 126), (33, 128, 128), (5, 129, 130), (2, 65, 6)]


def has_float8() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9)


float8 = pytest.mark.skipif(not has_float8(), reason="this device has no float8")


@pytest.fixture(params=[pytest.param(90, id="float8", marks=float8), pytest.param(80, id="bytes")])
def stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are decoded as devices with float8 do, or as those without."""
    monkeypatch.setattr(experts_fp8, "capability_of", lambda device: request.param)


def randn(*shape: int, seed: int, device: str) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.div(math.sqrt(shape[-1])).to(device)


def activations(rows: int, columns: int, dtype: torch.dtype, device: str) -> Tensor:
    return randn(rows, columns, seed=5, device=device).mul(math.sqrt(columns)).to(dtype)


def routed(tokens: int, experts: int, device: str) -> Tensor:
    order = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(6)).argsort(-1)
    return order[:, :1].to(device)


def products(rows: Tensor, chosen: Tensor) -> Tensor:
    return (chosen.double() @ rows.double().unsqueeze(-1)).squeeze(-1)


def geglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def close(found: Tensor, wanted: Tensor) -> bool:
    bound = ROUNDING[found.dtype]
    return torch.allclose(found.double(), wanted, rtol=bound, atol=2e-6)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.usefixtures("poisoned_empty", "stored")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slots", "columns", "rows"), SHAPES)
def test_widened_weights_are_exactly_those_of_the_matrix(
    slots: int, columns: int, rows: int, dtype: torch.dtype, kernel_device: str
) -> None:
    matrix = Fp8Matrix.quantize(randn(3, rows, columns, seed=1, device=kernel_device))
    x = activations(slots, columns, dtype, kernel_device)
    experts = routed(slots, 3, kernel_device)
    order, offsets = sort_slots_triton(experts, 3)
    wanted = products(x, matrix.dequantize(torch.float64)[experts.flatten()])
    act = gate_up_fp8_triton(x, order, offsets, matrix, 1)
    assert act.dtype == dtype
    assert close(act, geglu(wanted)[order.long()])
    assert close(down_fp8_triton(x[order.long()], order, offsets, matrix), wanted)


@pytest.mark.usefixtures("stored")
def test_every_float8_but_nan_is_decoded_exactly(kernel_device: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=kernel_device)
    finite = codes[(codes & 0x7F) != 0x7F].view(torch.float8_e4m3fn)
    scale = torch.full((len(finite),), 0.375, device=kernel_device)
    matrix = Fp8Matrix(finite[None, :, None], scale[None])
    alone = torch.zeros(1, 1, dtype=torch.int64, device=kernel_device)
    order, offsets = sort_slots_triton(alone, 1)
    one = torch.ones(1, 1, dtype=torch.bfloat16, device=kernel_device)
    found = down_fp8_triton(one, order, offsets, matrix)
    assert torch.equal(found[0].float(), finite.float() * 0.375)


@float8
def test_bytes_and_float8_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, kernel_device: str
) -> None:
    matrix = Fp8Matrix.quantize(randn(2, 40, 70, seed=1, device=kernel_device))
    x = activations(9, 70, torch.bfloat16, kernel_device)
    order, offsets = sort_slots_triton(routed(9, 2, kernel_device), 2)
    straight = gate_up_fp8_triton(x, order, offsets, matrix, 1)
    monkeypatch.setattr(experts_fp8, "capability_of", lambda device: 80)
    assert decoded_weights(matrix, 80).values.dtype == torch.int8
    assert torch.equal(gate_up_fp8_triton(x, order, offsets, matrix, 1), straight)


@float8
@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 63), (2, 64), (5, 1000)])
def test_rows_are_rounded_to_the_nearest_float8_of_their_scale(
    rows: int, columns: int, dtype: torch.dtype, kernel_device: str
) -> None:
    x = activations(rows, columns, dtype, kernel_device) * 100
    values, scale = quantize_rows_fp8_triton(x)
    assert values.dtype == torch.float8_e4m3fn
    wanted = x.double().abs().amax(-1) / 448
    assert torch.allclose(scale.double(), wanted, rtol=1e-6)
    assert torch.equal(values.float().abs().amax(-1), torch.full_like(scale, 448))
    exact = x.double() / scale.double().unsqueeze(-1)
    # Half a step of 3 bits of mantissa, or of the smallest numbers, which are 2**-9 apart.
    half = torch.maximum(2.0 ** (exact.abs().log2().floor() - 4), torch.tensor(2.0**-10))
    assert ((values.double() - exact).abs() <= half * (1 + 1e-5)).all()


@float8
def test_a_row_of_zeros_keeps_scale_one(kernel_device: str) -> None:
    values, scale = quantize_rows_fp8_triton(torch.zeros(2, 5, device=kernel_device))
    assert values.float().eq(0).all()
    assert scale.tolist() == [1, 1]


@float8
@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("slots", "columns", "rows"), SHAPES)
def test_float8_products_are_those_of_the_rounded_rows(
    slots: int, columns: int, rows: int, dtype: torch.dtype, kernel_device: str
) -> None:
    matrix = Fp8Matrix.quantize(randn(3, rows, columns, seed=1, device=kernel_device))
    x = activations(slots, columns, dtype, kernel_device)
    experts = routed(slots, 3, kernel_device)
    order, offsets = sort_slots_triton(experts, 3)
    values, scale = quantize_rows_fp8_triton(x)
    rounded = values.double() * scale.double().unsqueeze(-1)
    wanted = products(rounded, matrix.dequantize(torch.float64)[experts.flatten()])
    act = gate_up_w8a8_triton(x, order, offsets, matrix, 1)
    assert act.dtype == dtype
    assert close(act, geglu(wanted)[order.long()])
    assert close(down_w8a8_triton(x[order.long()], order, offsets, matrix), wanted)


@float8
@pytest.mark.parametrize("formats", [FORMATS, W8A8_FORMATS], ids=["weights", "weights and rows"])
def test_quantising_costs_what_three_bits_of_mantissa_cost(
    formats: Formats, kernel_device: str
) -> None:
    tokens, dim, width, experts, top_k = 24, 96, 48, 4, 2
    x = activations(tokens, dim, torch.float32, kernel_device)
    gate_up = randn(experts, 2 * width, dim, seed=1, device=kernel_device)
    down = randn(experts, dim, width, seed=2, device=kernel_device)
    ids = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(6)).argsort(-1)
    ids = ids[:, :top_k].to(kernel_device)
    weights = torch.full((tokens, top_k), 0.5, device=kernel_device)
    small = Fp8Matrix.quantize(gate_up), Fp8Matrix.quantize(down)
    found = experts_triton(x, weights, ids, *small, formats=formats)
    dense = experts_reference(x, weights, ids, gate_up, down)
    kernel_error = relative(found, experts_reference(x, weights, ids, *small))
    if formats is FORMATS:
        assert kernel_error < 1e-5
        assert 0.01 < relative(found, dense) < 0.06
    else:
        assert 0.01 < kernel_error < 0.06
        assert 0.02 < relative(found, dense) < 0.08


@float8
def test_dense_and_float8_matrices_may_be_mixed(kernel_device: str) -> None:
    x = activations(3, 32, torch.float32, kernel_device)
    gate_up = randn(2, 16, 32, seed=1, device=kernel_device)
    down = Fp8Matrix.quantize(randn(2, 32, 8, seed=2, device=kernel_device))
    ids = routed(3, 2, kernel_device)
    weights = torch.ones(3, 1, device=kernel_device)
    order, offsets = sort_slots_triton(ids, 2)
    wanted = down_triton(
        gate_up_triton(x, order, offsets, gate_up, 1), order, offsets, down.dequantize(x.dtype)
    )
    assert torch.allclose(experts_triton(x, weights, ids, gate_up, down), wanted, atol=1e-6)


def test_float8_rows_are_refused_where_there_is_no_float8(
    monkeypatch: pytest.MonkeyPatch, kernel_device: str
) -> None:
    monkeypatch.setattr(experts_fp8, "capability_of", lambda device: 86)
    with pytest.raises(ValueError, match="capability 8.6, and float8 activations need 8.9"):
        quantize_rows_fp8_triton(torch.ones(1, 2, device=kernel_device))
