"""The interpreter computes in bfloat16 and float8 as torch does, and finds unwritten places."""
# Arguments of kernels have no types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
SPECIAL = (0.0, -0.0, 1.0, 1.00390625, 1.01171875, 3.3895e38, 1e-40, float("inf"), float("nan"))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal bit by bit, all NaN counting as one."""
    assert found.dtype == expected.dtype
    return torch.equal(found.double().nan_to_num(7.0), expected.double().nan_to_num(7.0))


@triton.jit
def _binary(x_ptr, y_ptr, out_ptr, KIND: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    if KIND == "add":
        out = x + y
    elif KIND == "sub":
        out = x - y
    elif KIND == "mul":
        out = x * y
    elif KIND == "div":
        out = x / y
    elif KIND == "max":
        out = tl.maximum(x, y)
    elif KIND == "min":
        out = tl.minimum(x, y)
    elif KIND == "lt":
        out = x < y
    elif KIND == "ge":
        out = x >= y
    elif KIND == "eq":
        out = x == y
    else:
        out = tl.fma(x, y, y)
    tl.store(out_ptr + at, out)


BINARY: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "lt": torch.lt,
    "ge": torch.ge,
    "eq": torch.eq,
    "fma": lambda x, y: (x.double() * y.double() + y.double()).to(x.dtype),
}


@pytest.mark.parametrize("kind", BINARY)
def test_two_bfloat16_give_what_torch_gives(kind: str, kernel_device: str) -> None:
    x, y = (numbers(256, seed=seed).to(kernel_device, BF16) for seed in (0, 1))
    y[:64] = x[:64]  # comparisons need equals
    expected = BINARY[kind](x, y)
    out = torch.empty_like(expected)
    _binary[(1,)](x, y, out, KIND=kind, SIZE=256)
    assert same(out, expected)


@triton.jit
def _cast(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.load(x_ptr + at))


@triton.jit
def _unary(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.where(at % 2 == 0, -x, tl.abs(x)))


@triton.jit
def _constant(out_ptr, VALUE: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.full((SIZE,), VALUE, out_ptr.dtype.element_ty))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _cast[(1,)](x, out, SIZE=x.numel())
    return out


def test_signs_of_bfloat16_are_turned_and_dropped(kernel_device: str) -> None:
    x = numbers(256).to(kernel_device, BF16)
    out = torch.empty_like(x)
    _unary[(1,)](x, out, SIZE=256)
    assert same(out, torch.where(torch.arange(256, device=kernel_device) % 2 == 0, -x, x.abs()))


CASTS = [(torch.float32, BF16), (torch.float16, BF16), (BF16, torch.float32), (BF16, torch.float16)]


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_casts_round_to_nearest_even(
    source: torch.dtype, target: torch.dtype, kernel_device: str
) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    if source == torch.float32:
        halves = (every.int() << 16) + torch.tensor([[0], [0x7FFF], [0x8000], [0x8001]])
        every = halves.int().flatten()
    x = every.view(source).to(kernel_device)
    assert same(cast(x, target), x.to(target))


@pytest.mark.parametrize("number", [torch.int32, torch.int64, torch.uint8])
def test_integers_turn_into_bfloat16_and_back(number: torch.dtype, kernel_device: str) -> None:
    low = 0 if number == torch.uint8 else -128
    x = torch.arange(low, low + 256).to(number).to(kernel_device)
    assert same(cast(x, BF16), x.to(BF16))
    assert torch.equal(cast(x.to(BF16), number), x)


@pytest.mark.parametrize("dtype", [BF16, torch.float16, torch.float32])
def test_float8_is_rounded_to_nearest_even_and_saturates(
    dtype: torch.dtype, kernel_device: str
) -> None:
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(FP8).to(kernel_device)
    assert same(cast(every, dtype), every.to(dtype))
    x = (numbers(4096) * 2.0 ** numbers(4096, seed=1).mul(4).round()).to(kernel_device, dtype)
    assert x.abs().max() > 448
    assert same(cast(x, FP8).float(), x.float().clamp(-448, 448).to(FP8).float())


@pytest.mark.parametrize("value", [0.0, 1.5, -0.3, float("-inf")])
def test_a_constant_may_be_bfloat16(value: float, kernel_device: str) -> None:
    out = torch.empty(8, dtype=BF16, device=kernel_device)
    _constant[(1,)](out, VALUE=value, SIZE=8)
    assert same(out, torch.full_like(out, value))


@triton.jit
def _dot(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    grid = at[:, None] * SIZE + at[None, :]
    acc = tl.full((SIZE, SIZE), 1.0, tl.float32)
    acc = tl.dot(tl.load(a_ptr + grid), tl.load(b_ptr + grid).trans(), acc)
    tl.store(out_ptr + grid, acc)


@pytest.mark.parametrize("target", [BF16, torch.float32])
def test_a_matrix_product_of_bfloat16_is_summed_in_float32(
    target: torch.dtype, kernel_device: str
) -> None:
    a, b = (numbers(32, 32, seed=seed).to(kernel_device, BF16) for seed in (0, 1))
    out = torch.empty(32, 32, dtype=target, device=kernel_device)
    _dot[(1,)](a, b, out, SIZE=32)
    exact = a.double() @ b.double().T + 1
    rounding = 2.0**-8 if target == BF16 else 1e-6
    assert ((out.double() - exact).abs() <= rounding * exact.abs() + 1e-5).all()


@triton.jit
def _larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def _fold(x_ptr, out_ptr, KIND: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr):
    rows, cols = tl.arange(0, ROWS), tl.arange(0, SIZE)
    x = tl.load(x_ptr + rows[:, None] * SIZE + cols[None, :])
    if KIND == "cumsum":
        tl.store(out_ptr + rows[:, None] * SIZE + cols[None, :], tl.cumsum(x, 1))
    elif KIND == "sum":
        tl.store(out_ptr + rows, tl.sum(x, 1))
    elif KIND == "amax":
        tl.store(out_ptr + rows, tl.max(x, 1))
    elif KIND == "argmax":
        tl.store(out_ptr + rows, tl.argmax(x, 1))
    elif KIND == "sort":
        tl.store(out_ptr + rows[:, None] * SIZE + cols[None, :], tl.sort(x, 1))
    else:
        tl.store(out_ptr + rows, tl.reduce(x, 1, _larger))


FOLDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.float().sum(1).to(BF16),
    "cumsum": lambda x: x.float().cumsum(1).to(BF16),
    "amax": lambda x: x.amax(1),
    "larger": lambda x: x.amax(1),
    "argmax": lambda x: x.argmax(1).int(),
    "sort": lambda x: x.sort(1).values,
}


@pytest.mark.parametrize("kind", FOLDS)
def test_reductions_of_bfloat16_give_what_torch_gives(kind: str, kernel_device: str) -> None:
    x = (numbers(4, 16) * 64).round().div(64).to(kernel_device, BF16)
    expected = FOLDS[kind](x)
    out = torch.empty_like(expected)
    _fold[(1,)](x, out, KIND=kind, ROWS=4, SIZE=16)
    assert same(out, expected)


def test_overflow_and_not_a_number_come_without_a_warning(kernel_device: str) -> None:
    x = torch.tensor([3e38, -3e38, float("inf"), float("nan")], device=kernel_device)
    out = torch.empty_like(x)
    _binary[(1,)](x, x, out, KIND="add", SIZE=4)
    assert same(out, x + x)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, BF16, FP8, torch.int64, torch.uint8, torch.bool])
def test_uninitialised_memory_is_poisoned(dtype: torch.dtype, kernel_device: str) -> None:
    like = torch.zeros(3, dtype=dtype, device=kernel_device)
    for made in (
        torch.empty(2, 3, dtype=dtype),
        torch.empty_like(like),
        like.new_empty(2, 3),
        torch.empty_strided((2, 3), (3, 1), dtype=dtype),
    ):
        values = made.float()
        assert bool(values.isnan().all() if dtype.is_floating_point else (values != 0).all())


@triton.jit
def _copy(x_ptr, out_ptr, shift, size, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.load(x_ptr + at + shift, mask=at < size), mask=at < size)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does not look")
def test_an_address_outside_of_every_argument_is_refused(kernel_device: str) -> None:
    x, out = numbers(8), torch.zeros(8)
    _copy[(1,)](x, out, 0, 8, SIZE=16)
    assert torch.equal(x, out)
    _copy[(1,)](x[3:], out, -3, 8, SIZE=16)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="reads 1 places outside"):
        _copy[(1,)](x, out, 1, 8, SIZE=16)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="reads 2 places outside"):
        _copy[(1,)](x, out, -2, 8, SIZE=16)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="writes 1 places outside"):
        _copy[(1,)](numbers(9), out, 0, 9, SIZE=16)


@triton.jit
def _follow(table_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x_ptr = tl.load(table_ptr).to(tl.pointer_type(out_ptr.dtype.element_ty))
    tl.store(out_ptr + at, tl.load(x_ptr + at))


def test_addresses_in_a_table_may_be_read(kernel_device: str) -> None:
    x, out = numbers(8).to(kernel_device), torch.zeros(8, device=kernel_device)
    _follow[(1,)](torch.tensor([x.data_ptr()], device=kernel_device), out, SIZE=8)
    assert torch.equal(x, out)
