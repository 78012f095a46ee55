"""Norms and rotation of heads in Triton against the reference and against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgemma_kernels.heads import heads_reference
from dgemma_kernels.heads_triton import heads_config, heads_triton

pytestmark = pytest.mark.usefixtures("poisoned_empty")

EPS = 1e-6
ROUNDING = {torch.float32: 1e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Tokens, query heads, key and value heads, head size.
SHAPES = [
    (1, 1, 1, 2),
    (3, 4, 2, 16),
    (2, 7, 3, 6),
    (5, 8, 8, 34),
    (2, 16, 8, 256),
    (2, 16, 2, 512),
]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm64(x: Tensor, weight: Tensor | None = None) -> Tensor:
    x = x.double()
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    return normed if weight is None else normed * weight.double()


def head64(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The norm is rounded as an operation of its own; every pair turns by its angle."""
    left, right = norm64(x, weight).to(x.dtype).double().chunk(2, dim=-1)
    cos, sin = cos.double()[:, None], sin.double()[:, None]
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


def assert_near(found: Tensor, expected: Tensor, roundings: int = 1) -> None:
    assert found.shape == expected.shape
    step = 1.01 * roundings * ROUNDING[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=step, atol=step)


def angles(tokens: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """A quarter of the pairs does not turn."""
    angle = numbers(tokens, dim // 2, seed=9) * 20
    angle[:, dim // 8 * 3 :] = 0
    return angle.cos().to(device), angle.sin().to(device)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("own_values", [True, False])
@pytest.mark.parametrize(("tokens", "heads", "kv_heads", "dim"), SHAPES)
def test_queries_and_keys_are_normalised_and_turned_and_values_only_normalised(
    tokens: int,
    heads: int,
    kv_heads: int,
    dim: int,
    own_values: bool,
    dtype: torch.dtype,
    kernel_device: str,
) -> None:
    q = (numbers(tokens, heads, dim) * 3).to(kernel_device, dtype)
    k, v = ((numbers(tokens, kv_heads, dim, seed=i) * 3).to(kernel_device, dtype) for i in (1, 2))
    w, u = ((numbers(dim, seed=i) / 4 + 1).to(kernel_device, dtype) for i in (3, 4))
    cos, sin = angles(tokens, dim, kernel_device)
    found = heads_triton(q, k, v if own_values else None, w, u, cos, sin, EPS)
    assert [each.dtype for each in found] == [dtype] * 3
    assert_near(found[2], norm64(v if own_values else k))
    for one, exact in ((found[0], head64(q, w, cos, sin)), (found[1], head64(k, u, cos, sin))):
        assert_near(one, exact, roundings=2)
        if dtype != torch.float32:  # here and there the norm's rounding may tip
            assert (one == exact.to(dtype)).double().mean() > 0.97
    cos, sin = cos.to(dtype), sin.to(dtype)
    found = heads_triton(q, k, v if own_values else None, w, u, cos, sin, EPS)
    expected = heads_reference(q, k, v if own_values else None, w, u, cos, sin, EPS)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, roundings=4)  # the reference rounds every product


@pytest.mark.parametrize("own_values", [True, False])
def test_heads_are_read_where_a_fused_projection_left_them(
    own_values: bool, kernel_device: str
) -> None:
    tokens, heads, kv_heads, dim = 3, 4, 2, 16
    fused = numbers(tokens, (heads + 2 * kv_heads) * dim + 5).to(kernel_device)
    q, k, v = (
        part.unflatten(-1, (-1, dim))
        for part in fused[:, :-5].split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    )
    assert not q.is_contiguous()
    w, u = numbers(dim, 2, seed=1).to(kernel_device).unbind(-1)
    cos, sin = angles(1, dim, kernel_device)
    cos, sin = cos.expand(tokens, -1), sin.expand(tokens, -1)
    found = heads_triton(q, k, v if own_values else None, w, u, cos, sin, EPS)
    assert all(each.is_contiguous() for each in found)
    assert_near(found[0], head64(q, w, cos, sin), roundings=4)
    assert_near(found[1], head64(k, u, cos, sin), roundings=4)
    assert_near(found[2], norm64(v if own_values else k))


def test_any_strides_will_do(kernel_device: str) -> None:
    q = numbers(8, 3, 4).to(kernel_device).permute(1, 2, 0)
    k = numbers(2, 3, 8, seed=1).to(kernel_device).transpose(0, 1)
    weight = torch.ones(8, device=kernel_device)
    cos, sin = angles(3, 8, kernel_device)
    found = heads_triton(q, k, None, weight, weight, cos, sin, EPS)
    assert_near(found[0], head64(q, weight, cos, sin), roundings=4)
    assert_near(found[1], head64(k, weight, cos, sin), roundings=4)
    assert heads_triton(q[:0], k[:0], None, weight, weight, cos[:0], sin[:0], EPS)[0].numel() == 0


def test_tokens_may_lie_more_than_two_to_the_31_elements_apart(
    far_rows: Callable[[int], Tensor], kernel_device: str
) -> None:
    q = far_rows(8)[:, None]
    weight = torch.ones(8, dtype=torch.bfloat16, device=kernel_device)
    cos, sin = angles(3, 8, kernel_device)
    for each in heads_triton(q, q, None, weight, weight, cos, sin, EPS)[:2]:
        assert_near(each, head64(q, weight, cos, sin), roundings=2)


def test_a_program_takes_as_many_heads_as_there_are_keys_but_no_more_than_fit() -> None:
    assert heads_config(8, 256) == (8, 128, 4)
    assert heads_config(2, 512) == (2, 256, 2)
