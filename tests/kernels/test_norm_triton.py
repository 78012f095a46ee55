"""The norms in Triton against their references and against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgemma_kernels.norm import (
    layer_tail_reference,
    post_attention_reference,
    rms_norm_reference,
)
from dgemma_kernels.norm_triton import (
    layer_tail_triton,
    norm_config,
    post_attention_triton,
    rms_norm_triton,
)

pytestmark = pytest.mark.usefixtures("poisoned_empty")

EPS = 1e-6
# Half the distance to the next number, relative; float32 leaves room for the order of a sum.
ROUNDING = {torch.float32: 1e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Below, at and above a block of columns, and of rows (sixteen where they are narrow).
SHAPES = [(1, 1), (15, 7), (16, 16), (17, 17), (3, 63), (9, 64), (8, 256), (2, 2816)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near_one(width: int, seed: int) -> Tensor:
    return numbers(width, seed=seed) / 4 + 1


def norm64(x: Tensor, weight: Tensor | None = None) -> Tensor:
    x = x.double()
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    return normed if weight is None else normed * weight.double()


def assert_near(found: Tensor, expected: Tensor, roundings: int = 1) -> None:
    """Within so many roundings of the dtype of what was found; numbers here are about 1."""
    assert found.shape == expected.shape
    step = 1.01 * roundings * ROUNDING[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=step, atol=step / 4)


def assert_mostly_equal(found: Tensor, expected: Tensor) -> None:
    """A sum in another order may tip a rounding here and there, but no more."""
    assert found.dtype == expected.dtype
    assert_near(found, expected, roundings=4)
    if found.dtype != torch.float32:
        assert (found == expected).double().mean() > 0.98


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_a_row_is_divided_by_its_root_mean_square(
    rows: int, width: int, dtype: torch.dtype, weighted: bool, kernel_device: str
) -> None:
    x = (numbers(rows, width) * 5).to(kernel_device, dtype)
    weight = numbers(width, seed=1).to(kernel_device, dtype) if weighted else None
    found = rms_norm_triton(x, weight, EPS)
    assert found.dtype == dtype
    assert_near(found, norm64(x, weight))
    assert_mostly_equal(found, rms_norm_reference(x, weight, EPS))


def test_rows_of_zeros_and_rows_of_huge_numbers_are_normalised(kernel_device: str) -> None:
    x = torch.stack([torch.zeros(20), numbers(20) * 1e15, numbers(20) * 1e-15]).to(kernel_device)
    assert_near(rms_norm_triton(x, None, EPS), norm64(x))


def test_any_leading_shape_and_any_strides_will_do(kernel_device: str) -> None:
    wide = numbers(2, 3, 4, 40).to(kernel_device)
    weight = numbers(80, seed=1).to(kernel_device)[::4]
    transposed = numbers(20, 6, seed=2).to(kernel_device).t()
    for x in (wide[..., 5:25], wide.transpose(0, 2)[..., :20], transposed, wide[0, 0, 0, :20]):
        found = rms_norm_triton(x, weight, EPS)
        assert found.is_contiguous()
        assert_near(found, norm64(x, weight))
    same = wide[0, 0, :1, :20].expand(5, 20)
    assert_near(rms_norm_triton(same, weight, EPS), norm64(same, weight))
    assert rms_norm_triton(wide[:0, 0, 0, :20], weight, EPS).shape == (0, 20)


def test_rows_may_lie_more_than_two_to_the_31_elements_apart(
    far_rows: Callable[[int], Tensor],
) -> None:
    x = far_rows(8)
    assert_near(rms_norm_triton(x, None, EPS), norm64(x))


def test_narrow_rows_share_a_program_and_the_widest_has_one_of_its_own() -> None:
    assert norm_config(256)[0] == 8
    assert norm_config(512)[0] == 4
    assert norm_config(2816) == (1, 4096, 8)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_after_attention_residual_and_both_inputs_are_what_the_parts_give(
    rows: int, width: int, dtype: torch.dtype, kernel_device: str
) -> None:
    x, attended = (numbers(rows, width, seed=i).to(kernel_device, dtype) for i in (0, 1))
    post, dense, expert = (near_one(width, i).to(kernel_device, dtype) for i in (2, 3, 4))
    found = post_attention_triton(x, attended, post, dense, expert, EPS)
    expected = post_attention_reference(x, attended, post, dense, expert, EPS)
    for one, other in zip(found, expected, strict=True):
        assert_mostly_equal(one, other)
    residual = x.double() + norm64(attended, post).to(dtype).double()
    assert_near(found[0], residual, roundings=3)
    # What was found is normalised: a rounding that tipped is not counted twice.
    assert_near(found[1], norm64(found[0], dense))
    assert_near(found[2], norm64(found[0], expert))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_the_tail_of_a_layer_is_what_its_parts_give(
    rows: int, width: int, dtype: torch.dtype, kernel_device: str
) -> None:
    r, d, m = (numbers(rows, width, seed=i).to(kernel_device, dtype) for i in (0, 1, 2))
    wd, wm, wp, wn = (near_one(width, i).to(kernel_device, dtype) for i in (3, 4, 5, 6))
    scalar = torch.tensor([0.8], dtype=dtype, device=kernel_device)
    found = layer_tail_triton(r, d, m, wd, wm, wp, scalar, wn, EPS)
    expected = layer_tail_reference(r, d, m, wd, wm, wp, scalar, wn, EPS)
    for one, other in zip(found, expected, strict=True):
        assert_mostly_equal(one, other)
    x = (r.double() + norm64(norm64(d, wd) + norm64(m, wm), wp)) * scalar.double()
    assert_near(found[0], x, roundings=12)
    assert_near(found[1], norm64(found[0], wn))


def test_fused_norms_take_rows_of_any_stride(kernel_device: str) -> None:
    wide = numbers(5, 100).to(kernel_device)
    x, y, z = wide[:, :20], wide[:, 30:50], numbers(20, 5, seed=1).to(kernel_device).t()
    a, b, c, d = numbers(20, 4, seed=2).to(kernel_device).unbind(-1)
    scalar = wide[0, :1]
    after = post_attention_triton(z, y, a, b, c, EPS)
    for one, other in zip(after, post_attention_reference(z, y, a, b, c, EPS), strict=True):
        assert_near(one, other, roundings=4)
    tail = layer_tail_triton(x, y, z, a, b, c, scalar, d, EPS)
    expected = layer_tail_reference(x, y, z, a, b, c, scalar, d, EPS)
    for one, other in zip(tail, expected, strict=True):
        assert_near(one, other, roundings=4)
