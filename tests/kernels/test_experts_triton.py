"""Grouped products of experts against float64 loops, however tokens are routed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dgemma_kernels.experts import experts_reference
from dgemma_kernels.experts_triton import (
    FORMATS,
    Formats,
    combine_triton,
    down_triton,
    experts_triton,
    gate_up_triton,
)
from dgemma_kernels.fp8 import Fp8Matrix
from dgemma_kernels.grouped_triton import grouped_tiles, most_tiles, tile_memory
from dgemma_kernels.routing_triton import sort_slots_triton

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def randn(*shape: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.div(math.sqrt(shape[-1])).to(device, dtype)


def activations(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return (
        randn(*shape, seed=5, dtype=torch.float32, device=device)
        .mul(math.sqrt(shape[-1]))
        .to(dtype)
    )


def ids(rows: list[list[int]], device: str) -> Tensor:
    return torch.tensor(rows, device=device)


def uniform(tokens: int, top_k: int, experts: int, device: str) -> Tensor:
    order = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(6)).argsort(-1)
    return order[:, :top_k].to(device)


def gate_up_by_hand(x: Tensor, experts: Tensor, gate_up: Tensor) -> Tensor:
    """One slot at a time, in float64, in the order of the slots."""
    rows = []
    for slot, expert in enumerate(experts.flatten().tolist()):
        gate, up = (gate_up[expert].double() @ x[slot // experts.shape[1]].double()).chunk(2)
        inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
        rows.append(0.5 * gate * (1 + inner.tanh()) * up)
    return torch.stack(rows)


def experts_by_hand(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    act = gate_up_by_hand(x, experts, gate_up)
    slots = [down[e].double() @ row for e, row in zip(experts.flatten().tolist(), act, strict=True)]
    by_slot = torch.stack(slots).view(*experts.shape, -1)
    return (by_slot * weights.double().unsqueeze(-1)).sum(1)


def close(found: Tensor, wanted: Tensor, slack: float = 1.0) -> bool:
    """Within one rounding to the dtype of `found`, and float32's error of a sum."""
    bound = slack * ROUNDING[found.dtype]
    return torch.allclose(found.double(), wanted, rtol=bound, atol=2e-6 * slack)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "dim", "width"),
    [(1, 1, 1), (7, 31, 63), (33, 32, 64), (5, 33, 65), (2, 63, 3), (9, 129, 5)],
)
def test_gate_and_up_are_those_of_each_slots_expert(
    tokens: int, dim: int, width: int, dtype: torch.dtype, kernel_device: str
) -> None:
    experts = uniform(tokens, 2, 3, kernel_device)
    x = activations(tokens, dim, dtype=dtype, device=kernel_device)
    gate_up = randn(3, 2 * width, dim, seed=1, dtype=dtype, device=kernel_device)
    order, offsets = sort_slots_triton(experts, 3)
    act = gate_up_triton(x, order, offsets, gate_up, 2)
    assert act.dtype == dtype
    assert close(act, gate_up_by_hand(x, experts, gate_up)[order.long()])


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("slots", "width", "dim"),
    [(1, 1, 1), (7, 31, 127), (33, 32, 128), (6, 33, 129), (4, 65, 2), (31, 129, 5)],
)
def test_down_writes_each_row_where_its_slot_belongs(
    slots: int, width: int, dim: int, dtype: torch.dtype, kernel_device: str
) -> None:
    experts = uniform(slots, 1, 3, kernel_device)
    down = randn(3, dim, width, seed=2, dtype=dtype, device=kernel_device)
    by_slot = activations(slots, width, dtype=dtype, device=kernel_device)
    order, offsets = sort_slots_triton(experts, 3)
    found = down_triton(by_slot[order.long()], order, offsets, down)
    chosen = down[experts.flatten()].double()
    assert close(found, (chosen @ by_slot.double().unsqueeze(-1)).squeeze(-1))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "top_k", "dim"), [(1, 1, 1), (3, 2, 1023), (5, 8, 1025)])
def test_slots_are_summed_with_their_weights_and_rounded_once(
    tokens: int, top_k: int, dim: int, dtype: torch.dtype, kernel_device: str
) -> None:
    by_slot = activations(tokens * top_k, dim, dtype=dtype, device=kernel_device)
    weights = activations(tokens, top_k, dtype=torch.float32, device=kernel_device)
    wide = by_slot.double().view(tokens, top_k, dim)
    wanted = (wide * weights.double().unsqueeze(-1)).sum(1)
    assert close(combine_triton(by_slot, weights), wanted)


ROUTINGS = {
    "one token": [[2, 0]],
    "an expert without tokens": [[0, 3], [3, 1], [1, 0]],
    "all on the first expert": [[0]] * 70,
    "all on the last expert": [[3]] * 33,
    "one expert twice for a token": [[1, 1], [2, 1]],
    "one below, at and above a tile": [[0]] * 31 + [[1]] * 32 + [[2]] * 33,
}


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_any_routing_gives_what_loops_give(
    routing: str, dtype: torch.dtype, kernel_device: str
) -> None:
    experts = ids(ROUTINGS[routing], kernel_device)
    tokens, top_k = experts.shape
    x = activations(tokens, 40, dtype=dtype, device=kernel_device)
    gate_up = randn(4, 24, 40, seed=1, dtype=dtype, device=kernel_device)
    down = randn(4, 40, 12, seed=2, dtype=dtype, device=kernel_device)
    weights = activations(tokens, top_k, dtype=torch.float32, device=kernel_device)
    found = experts_triton(x, weights, experts, gate_up, down)
    assert found.dtype == dtype
    assert relative(found, experts_by_hand(x, weights, experts, gate_up, down)) < (
        1.5 * ROUNDING[dtype]
    )


@pytest.mark.parametrize("tokens", [40, 110])
def test_larger_token_tiles_give_the_same(tokens: int, kernel_device: str) -> None:
    experts = uniform(tokens, 2, 2, kernel_device)
    assert grouped_tiles(2 * tokens, 2, 4, 4, 90).tokens == (64 if tokens == 40 else 128)
    x = activations(tokens, 20, dtype=torch.float32, device=kernel_device)
    gate_up = randn(2, 12, 20, seed=1, dtype=torch.float32, device=kernel_device)
    down = randn(2, 20, 6, seed=2, dtype=torch.float32, device=kernel_device)
    weights = activations(tokens, 2, dtype=torch.float32, device=kernel_device)
    found = experts_triton(x, weights, experts, gate_up, down)
    assert close(found, experts_by_hand(x, weights, experts, gate_up, down))
    reference = experts_reference(x, weights, experts, gate_up, down)
    assert torch.allclose(found, reference, rtol=1e-5, atol=1e-6)


def test_parameters_strided_inputs_and_a_second_run_give_the_same_bits(kernel_device: str) -> None:
    experts = uniform(9, 2, 3, kernel_device)
    x = activations(9, 24, dtype=torch.bfloat16, device=kernel_device)
    gate_up = randn(3, 16, 24, seed=1, dtype=torch.bfloat16, device=kernel_device)
    down = randn(3, 24, 8, seed=2, dtype=torch.bfloat16, device=kernel_device)
    weights = activations(9, 2, dtype=torch.float32, device=kernel_device)
    first = experts_triton(x, weights, experts, gate_up, down)
    second = experts_triton(
        torch.stack([x, x * 2], dim=1)[:, 0],
        weights.t().contiguous().t(),
        experts.int().t().contiguous().t(),
        nn.Parameter(gate_up.transpose(1, 2).contiguous().transpose(1, 2)),
        nn.Parameter(down),
    )
    assert torch.equal(first, second)


def test_a_broken_token_stays_alone(kernel_device: str) -> None:
    experts = ids([[0, 1], [1, 0], [0, 1]], kernel_device)
    x = activations(3, 16, dtype=torch.float32, device=kernel_device)
    gate_up = randn(2, 8, 16, seed=1, dtype=torch.float32, device=kernel_device)
    down = randn(2, 16, 4, seed=2, dtype=torch.float32, device=kernel_device)
    weights = torch.ones(3, 2, device=kernel_device)
    whole = experts_triton(x, weights, experts, gate_up, down)
    x[0] = float("nan")
    found = experts_triton(x, weights, experts, gate_up, down)
    assert found[0].isnan().all()
    assert torch.equal(found[1:], whole[1:])


def test_no_tokens_give_no_rows(kernel_device: str) -> None:
    x = torch.empty(0, 16, device=kernel_device)
    gate_up = randn(2, 8, 16, seed=1, dtype=torch.float32, device=kernel_device)
    down = randn(2, 16, 4, seed=2, dtype=torch.float32, device=kernel_device)
    experts = torch.empty(0, 2, dtype=torch.int64, device=kernel_device)
    assert experts_triton(x, x[:, :2], experts, gate_up, down).shape == (0, 16)


def test_rows_that_do_not_fit_the_matrix_are_refused(kernel_device: str) -> None:
    x = torch.ones(1, 8, device=kernel_device)
    order, offsets = sort_slots_triton(ids([[0]], kernel_device), 2)
    with pytest.raises(ValueError, match=r"rows of 8 .* of shape \(2, 6, 7\): give rows of 7"):
        gate_up_triton(x, order, offsets, x.new_ones(2, 6, 7), 1)
    with pytest.raises(ValueError, match=r"rows of torch.float32 .* of torch.bfloat16: convert"):
        down_triton(x, order, offsets, x.new_ones(2, 7, 8, dtype=torch.bfloat16))


def test_a_kind_of_matrix_without_a_kernel_is_named(kernel_device: str) -> None:
    x = torch.ones(1, 64, device=kernel_device)
    gate_up = Fp8Matrix.quantize(torch.ones(2, 32, 64, device=kernel_device))
    down = torch.ones(2, 64, 16, device=kernel_device)
    only_dense: Formats = {Tensor: FORMATS[Tensor]}
    with pytest.raises(TypeError, match="experts of Fp8Matrix, only Tensor"):
        experts_triton(x, x[:, :1], ids([[0]], kernel_device), gate_up, down, formats=only_dense)


@given(counts=st.lists(st.integers(0, 100), min_size=1, max_size=9), tile=st.sampled_from([32, 64]))
def test_no_routing_needs_more_tiles_than_the_grid_has(counts: list[int], tile: int) -> None:
    needed = sum(-(-count // tile) for count in counts)
    assert needed <= most_tiles(sum(counts), len(counts), tile)
    slots, experts = sum(counts), len(counts)
    spread = min(slots, experts)  # the worst: one slot each, all others on one expert
    worst = [1] * (spread - 1) + [slots - spread + 1] if spread else []
    assert sum(-(-count // tile) for count in worst) >= most_tiles(slots, experts, tile) - 1


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100, 103, 120, 121])
@pytest.mark.parametrize("slots", [8, 2048, 8192, 65536])
@pytest.mark.parametrize("sizes", [(2, 2), (2, 1), (1, 1), (4, 4)])
def test_every_device_gets_tiles_it_has_memory_for(
    capability: int, slots: int, sizes: tuple[int, int]
) -> None:
    tiles = grouped_tiles(slots, 128, *sizes, capability)
    x_bytes, weight_bytes = sizes
    step = (tiles.rows * weight_bytes + tiles.tokens * x_bytes) * tiles.depth
    assert tiles.depth >= 32
    assert 2 * step <= max(tile_memory(capability), 65536)
