"""Choosing experts, and sorting (token, expert) slots by expert, one kernel each."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.routing import Routing


@triton.jit
def _route_kernel(
    x_ptr,
    scale_ptr,
    proj_ptr,
    per_expert_ptr,
    weights_ptr,
    experts_ptr,
    probabilities_ptr,
    tokens,
    eps,
    TOP_K: tl.constexpr,
    E: tl.constexpr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_TOP: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    real = token < tokens
    e = tl.arange(0, BLOCK_E)
    d = tl.arange(0, BLOCK_D)
    x_ptrs = x_ptr + token[:, None] * D + d[None, :]
    proj_ptrs = proj_ptr + e[None, :] * D + d[:, None]
    squares = tl.zeros((BLOCK_T,), tl.float32)
    scores = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for first in range(0, D, BLOCK_D):
        inside = d < D - first
        x = tl.load(x_ptrs + first, mask=real[:, None] & inside[None, :], other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + first + d, mask=inside, other=0.0).to(tl.float32)
        proj = tl.load(proj_ptrs + first, mask=(e < E)[None, :] & inside[:, None], other=0.0)
        squares += tl.sum(x * x, 1)
        read = x * scale[None, :]
        if proj.dtype == tl.bfloat16:
            # In two halves of 8 bits, so that scores are those of float32.
            high = read.to(tl.bfloat16)
            low = (read - high.to(tl.float32)).to(tl.bfloat16)
            scores = tl.dot(low, proj, tl.dot(high, proj, scores))
        else:
            scores = tl.dot(read, proj.to(tl.float32), scores, "ieee")
    # The norm and the factor D**-0.5 are the same for all scores of a token.
    scores *= tl.rsqrt(squares + eps * D)[:, None]
    scores = tl.where((e < E)[None, :], scores, float("-inf"))
    likely = tl.exp(scores - tl.max(scores, 1)[:, None])
    likely = likely / tl.sum(likely, 1)[:, None]
    place = token[:, None] * E + e[None, :]
    tl.store(probabilities_ptr + place, likely, mask=real[:, None] & (e < E)[None, :])

    weights, experts = _top(likely, e, TOP_K, E, BLOCK_T, BLOCK_TOP)
    weights = weights / tl.sum(weights, 1)[:, None]
    weights *= tl.load(per_expert_ptr + experts).to(tl.float32)
    j = tl.arange(0, BLOCK_TOP)
    place = token[:, None] * TOP_K + j[None, :]
    mask = real[:, None] & (j < TOP_K)[None, :]
    tl.store(weights_ptr + place, weights, mask=mask)
    tl.store(experts_ptr + place, experts, mask=mask)


@triton.jit
def _top(
    likely,
    e,
    TOP_K: tl.constexpr,
    E: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_TOP: tl.constexpr,
):
    """The `TOP_K` largest of each row and where they are; of equal ones the first."""
    j = tl.arange(0, BLOCK_TOP)[None, :]
    values = tl.zeros((BLOCK_T, BLOCK_TOP), tl.float32)
    places = tl.zeros((BLOCK_T, BLOCK_TOP), tl.int32)
    left = tl.where(likely == likely, likely, 0.0)  # NaN would leave the order open
    left = tl.where((e < E)[None, :], left, -1.0)
    for taken in tl.static_range(TOP_K):
        value, place = tl.max(left, 1, return_indices=True)
        values = tl.where(j == taken, value[:, None], values)
        places = tl.where(j == taken, place[:, None], places)
        left = tl.where(e[None, :] == place[:, None], -1.0, left)
    return values, places


def route_triton(
    x: Tensor, scale: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int, eps: float
) -> Routing:
    """`x (T, D)`, `scale (D,)`, `proj (E, D)`, `per_expert_scale (E,)` -> `Routing`.

    As `route_reference`, with scores in float32 throughout; of equally likely experts the one
    with the lower id comes first. Ids are int64.
    Raises ValueError for another width of `proj`, and for `top_k` above `E`.
    """
    (tokens, dim), experts = x.shape, proj.shape[0]
    if proj.shape[1] != dim:
        raise ValueError(f"tokens are {dim} wide and the projection {proj.shape[1]}, not the same")
    if not 1 <= top_k <= experts:
        raise ValueError(f"{top_k=} experts a token, of {experts}: should be 1 to {experts}")
    routing = Routing(
        weights=x.new_empty((tokens, top_k), dtype=torch.float32),
        experts=x.new_empty((tokens, top_k), dtype=torch.int64),
        probabilities=x.new_empty((tokens, experts), dtype=torch.float32),
    )
    constants = _route_constants(top_k, experts, dim)
    _route_kernel[(triton.cdiv(tokens, constants["BLOCK_T"]),)](
        x.contiguous(),
        scale.contiguous(),
        proj.contiguous(),
        per_expert_scale.contiguous(),
        *routing,
        tokens,
        eps,
        **constants,
        **ROUTE_LAUNCH,
    )
    return routing


ROUTE_LAUNCH = {"num_warps": 8, "num_stages": 4}


def _route_constants(top_k: int, experts: int, dim: int) -> dict[str, Any]:
    return {
        "TOP_K": top_k,
        "E": experts,
        "D": dim,
        "BLOCK_T": 16,
        "BLOCK_D": 64,
        "BLOCK_E": max(16, triton.next_power_of_2(experts)),
        "BLOCK_TOP": triton.next_power_of_2(top_k),
    }


@triton.jit
def _sort_kernel(experts_ptr, order_ptr, offsets_ptr, slots, E: tl.constexpr, BLOCK: tl.constexpr):
    """Program `e` places the slots of expert `e`; program `E`, which has none, the end."""
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    smaller = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, slots, BLOCK):
        found = tl.load(experts_ptr + first + lane, mask=lane < slots - first, other=E)
        smaller += (found < expert).to(tl.int32)
    place = tl.sum(smaller, 0)
    tl.store(offsets_ptr + expert, place)
    if expert == E:
        return
    for first in range(0, slots, BLOCK):
        found = tl.load(experts_ptr + first + lane, mask=lane < slots - first, other=E)
        mine = (found == expert).to(tl.int32)
        tl.store(order_ptr + place + tl.cumsum(mine, 0) - 1, first + lane, mask=mine != 0)
        place += tl.sum(mine, 0)


def sort_slots_triton(experts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`experts (T, k)`, ids in `[0, count)` -> `order (T * k,)`, `offsets (count + 1,)`, int32.

    Slot `s` is token `s // k` at its expert `s % k`. `order` holds slots by rising expert, those
    of one expert by rising slot: expert `e` has `order[offsets[e]:offsets[e + 1]]`.
    """
    slots = experts.numel()
    order = experts.new_empty((slots,), dtype=torch.int32)
    offsets = experts.new_empty((count + 1,), dtype=torch.int32)
    _sort_kernel[(count + 1,)](
        experts.contiguous(), order, offsets, slots, E=count, **_sort_launch(slots)
    )
    return order, offsets


def _sort_launch(slots: int) -> dict[str, int]:
    block = min(4096, max(256, triton.next_power_of_2(slots)))
    return {"BLOCK": block, "num_warps": 4 if block < 2048 else 8}


def compile_cases(capability: int) -> list[CompileCase]:
    """Routing, and sorting the slots of one canvas and of a long prompt."""
    route = CompileCase(
        "route",
        _route_kernel,
        dict.fromkeys(("x_ptr", "scale_ptr", "proj_ptr", "per_expert_ptr"), "*bf16")
        | {"weights_ptr": "*fp32", "experts_ptr": "*i64", "probabilities_ptr": "*fp32"}
        | {"tokens": "i32", "eps": "fp32"},
        _route_constants(top_k=8, experts=128, dim=2816),
        **ROUTE_LAUNCH,
        matmul=True,
    )
    return [route, *(_sort_case(slots) for slots in (2048, 65536))]


def _sort_case(slots: int) -> CompileCase:
    launch = _sort_launch(slots)
    return CompileCase(
        f"sort {slots} slots",
        _sort_kernel,
        {"experts_ptr": "*i64", "order_ptr": "*i32", "offsets_ptr": "*i32", "slots": "i32"},
        {"E": 128, "BLOCK": launch["BLOCK"]},
        num_warps=launch["num_warps"],
        num_stages=3,
        matmul=False,
    )
