"""Choosing experts and sorting slots by expert, against their plain sentences."""

import pytest
import torch
from torch import Tensor

from dgemma_kernels.routing import Routing, route_reference
from dgemma_kernels.routing_triton import route_triton, sort_slots_triton

EPS = 0.25  # large enough to be missed
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def randn(*shape: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(device, dtype)


Router = tuple[Tensor, Tensor, Tensor, Tensor]


def router(tokens: int, dim: int, experts: int, dtype: torch.dtype, device: str) -> Router:
    """Residual, scale, projection and scale per expert."""
    return (
        randn(tokens, dim, seed=1, dtype=dtype, device=device) * 3,
        randn(dim, seed=2, dtype=dtype, device=device),
        randn(experts, dim, seed=3, dtype=dtype, device=device),
        randn(experts, seed=4, dtype=dtype, device=device),
    )


def route_by_hand(
    x: Tensor, scale: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int
) -> Routing:
    """In float64, one token at a time."""
    experts = proj.shape[0]
    weights, ids, probabilities = [], [], []
    for row in x.double():
        read = row / (row.square().mean() + EPS).sqrt() * scale.double() / len(row) ** 0.5
        share = (proj.double() @ read).softmax(0)
        best = sorted(range(experts), key=lambda e: (-float(share[e]), e))[:top_k]
        weights.append(share[best] / share[best].sum() * per_expert_scale.double()[best])
        ids.append(best)
        probabilities.append(share)
    where = x.device
    return Routing(
        torch.stack(weights), torch.tensor(ids, device=where), torch.stack(probabilities)
    )


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "dim", "experts", "top_k"),
    [(1, 1, 1, 1), (15, 63, 5, 3), (16, 64, 16, 2), (17, 65, 17, 17), (33, 200, 128, 8)],
)
def test_a_token_goes_to_its_likeliest_experts_with_scores_in_float32(
    tokens: int, dim: int, experts: int, top_k: int, dtype: torch.dtype, kernel_device: str
) -> None:
    inputs = router(tokens, dim, experts, dtype, kernel_device)
    found = route_triton(*inputs, top_k, EPS)
    wanted = route_by_hand(*inputs, top_k)
    assert torch.equal(found.experts, wanted.experts)
    assert torch.allclose(found.probabilities.double(), wanted.probabilities, rtol=2e-5, atol=1e-6)
    assert torch.allclose(found.weights.double(), wanted.weights, rtol=2e-5, atol=1e-6)
    assert found.weights.dtype == found.probabilities.dtype == torch.float32


def test_it_agrees_with_the_reference_in_float32(kernel_device: str) -> None:
    inputs = router(20, 96, 12, torch.float32, kernel_device)
    found, wanted = route_triton(*inputs, 4, EPS), route_reference(*inputs, 4, EPS)
    assert torch.equal(found.experts, wanted.experts)
    assert torch.allclose(found.weights, wanted.weights, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found.probabilities, wanted.probabilities, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equally_likely_experts_the_lower_id_comes_first(
    dtype: torch.dtype, kernel_device: str
) -> None:
    x = torch.ones(3, 32, device=kernel_device, dtype=dtype)
    scale = torch.ones(32, device=kernel_device, dtype=dtype)
    height = torch.tensor([1.0, 2, 0, 2, 1, 2, 2], device=kernel_device, dtype=dtype)
    proj = height[:, None].expand(7, 32)
    found = route_triton(x, scale, proj, torch.ones_like(height), 6, EPS)
    assert found.experts.tolist() == [[1, 3, 5, 6, 0, 4]] * 3


def test_strided_inputs_and_a_second_run_give_the_same_bits(kernel_device: str) -> None:
    x, scale, proj, per_expert = router(18, 64, 9, torch.bfloat16, kernel_device)
    first = route_triton(x, scale, proj, per_expert, 3, EPS)
    wide = torch.stack([x, x.flip(0)], dim=1)
    second = route_triton(wide[:, 0], scale, proj.t().contiguous().t(), per_expert, 3, EPS)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_a_broken_token_stays_alone_and_its_ids_stay_experts(kernel_device: str) -> None:
    x, scale, proj, per_expert = router(5, 40, 11, torch.float32, kernel_device)
    whole = route_triton(x, scale, proj, per_expert, 4, EPS)
    x[2, 7] = float("nan")
    found = route_triton(x, scale, proj, per_expert, 4, EPS)
    assert found.probabilities[2].isnan().all()
    assert found.weights[2].isnan().all()
    assert found.experts[2].tolist() == [0, 1, 2, 3]
    kept = [0, 1, 3, 4]
    assert torch.equal(found.experts[kept], whole.experts[kept])
    assert torch.equal(found.weights[kept], whole.weights[kept])


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_experts_a_token_than_there_are_is_refused(top_k: int, kernel_device: str) -> None:
    inputs = router(2, 8, 4, torch.float32, kernel_device)
    with pytest.raises(ValueError, match=f"top_k={top_k} experts a token, of 4"):
        route_triton(*inputs, top_k, EPS)


def test_no_tokens_go_nowhere(kernel_device: str) -> None:
    inputs = router(0, 8, 4, torch.float32, kernel_device)
    assert [tuple(part.shape) for part in route_triton(*inputs, 2, EPS)] == [(0, 2), (0, 2), (0, 4)]
    order, offsets = sort_slots_triton(inputs[0].new_empty((0, 2), dtype=torch.int64), 4)
    assert order.shape == (0,)
    assert offsets.tolist() == [0] * 5


def test_a_projection_of_another_width_is_refused(kernel_device: str) -> None:
    x, scale, proj, per_expert = router(2, 8, 4, torch.float32, kernel_device)
    with pytest.raises(ValueError, match="8 wide and the projection 7"):
        route_triton(x, scale, proj[:, 1:], per_expert, 2, EPS)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    ("tokens", "top_k", "count"),
    [(1, 1, 1), (1, 8, 128), (85, 3, 7), (64, 4, 20), (257, 1, 4), (4100, 2, 3)],
)
def test_slots_are_sorted_by_expert_and_stay_in_order_within_one(
    tokens: int, top_k: int, count: int, dtype: torch.dtype, kernel_device: str
) -> None:
    seed = torch.Generator().manual_seed(tokens)
    experts = torch.randint(count, (tokens, top_k), generator=seed).to(kernel_device, dtype)
    order, offsets = sort_slots_triton(experts, count)
    assert order.dtype == offsets.dtype == torch.int32
    assert torch.equal(order.long(), experts.flatten().argsort(stable=True))
    ends = torch.bincount(experts.flatten(), minlength=count).cumsum(0)
    assert offsets.tolist() == [0, *ends.tolist()]


@pytest.mark.parametrize("only", [0, 2, 4])
def test_all_slots_may_belong_to_one_expert(only: int, kernel_device: str) -> None:
    experts = torch.full((300, 2), only, device=kernel_device)
    order, offsets = sort_slots_triton(experts, 5)
    assert order.tolist() == list(range(600))
    assert offsets.tolist() == [0 if e <= only else 600 for e in range(6)]


def test_strided_ids_are_sorted_like_others(kernel_device: str) -> None:
    wide = torch.tensor([[3, 9, 1], [0, 9, 3], [1, 9, 1]], device=kernel_device)
    order, offsets = sort_slots_triton(wide[:, ::2], 4)
    assert order.tolist() == [2, 1, 4, 5, 0, 3]
    assert offsets.tolist() == [0, 1, 4, 4, 6]
