"""The classes of tokens reduced in Triton, from the raw logits of one matrix product.

Kernels of their own, since only constrained requests ask, and since tokens gathered by class
reduce as whole tiles, without atomics: one kernel reads every logit and leaves a few numbers a
tile, a second one combines those of each class and finds the class' sample in one of its tiles.

As in `vocab_triton`, `gap = sigmoid(-2 * raw / cap)` stands for the logit `cap * (1 - 2 * gap)`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.class_statistics import TILE, ClassMaxima, ClassOrder, ClassStatistics
from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.vocab import Draws
from dgemma_kernels.vocab_triton import NOTHING, _first_reaching, _gap

TILE_ROWS = 4  # rows that share the ids of a tile
WARPS = 4


@triton.jit
def _tile_kernel(
    raw_ptr, temperature_ptr, proposal_ptr, tile_ptr, sums_ptr, best_ptr,
    rows, vocabulary, stride, tiles, cap,
    TILE: tl.constexpr, ROWS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Of each tile of a few rows its lowest gap, three sums `(4, rows, tiles)`, its best token."""
    tile = tl.program_id(0) % tiles
    row = (tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    token = tl.load(tile_ptr + tile * TILE + tl.arange(0, TILE))[None, :]
    mask = (row[:, None] < rows) & (token >= 0)
    x = tl.load(raw_ptr + row[:, None] * stride + token, mask=mask, other=0.0).to(tl.float32)
    gap = tl.where(mask, _gap(x, cap), NOTHING)
    low = tl.min(gap, 1)
    best = tl.min(tl.where((gap == low[:, None]) & mask, token, vocabulary), 1)
    at, plane = row * tiles + tile, rows.to(tl.int64) * tiles
    # What is not finite poisons the tile's class, and no other.
    finite = tl.sum(tl.where(tl.abs(x) < float("inf"), 0.0, float("nan")), 1)
    tl.store(sums_ptr + at, low + finite, mask=row < rows)
    tl.store(best_ptr + at, best, mask=row < rows)
    if SUMS:
        temperature = tl.load(temperature_ptr + row, mask=row < rows, other=1.0)
        factor = tl.load(proposal_ptr + row, mask=row < rows, other=1.0)
        factor = tl.where(factor == 0, 1.0, factor)
        log_weight = (low[:, None] - gap) * (2 * cap / temperature)[:, None]
        weight = tl.where(mask, tl.exp(log_weight), 0.0)
        spread = tl.sum(weight * tl.where(mask, log_weight, 0.0), 1)
        own = tl.where(mask, tl.exp(log_weight / factor[:, None]), 0.0)
        tl.store(sums_ptr + plane + at, tl.sum(weight, 1), mask=row < rows)
        tl.store(sums_ptr + 2 * plane + at, spread, mask=row < rows)
        tl.store(sums_ptr + 3 * plane + at, tl.sum(own, 1), mask=row < rows)


@triton.jit
def _class_kernel(
    raw_ptr, temperature_ptr, proposal_ptr, uniform_ptr, tile_ptr, first_ptr, sums_ptr, best_ptr,
    logit_ptr, token_ptr, log_total_ptr, entropy_ptr, log_proposal_ptr, sample_ptr,
    rows, vocabulary, stride, tiles, count, cap,
    TILE: tl.constexpr, TILES: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """One class of one row from its tiles, and the token at its quantile."""
    row, name = tl.program_id(0) // count, tl.program_id(0) % count
    first, each = tl.load(first_ptr + name), tl.arange(0, TILES)
    inside = first + each < tl.load(first_ptr + name + 1)
    at, plane = row.to(tl.int64) * tiles + first + each, rows.to(tl.int64) * tiles
    low = tl.load(sums_ptr + at, mask=inside, other=NOTHING)
    finite = tl.sum(low * 0, 0) == 0
    lowest = tl.min(low, 0)
    tile_best = tl.load(best_ptr + at, mask=inside & (low == lowest), other=vocabulary)
    best = tl.minimum(tl.min(tile_best, 0), vocabulary - 1)
    known = lowest < NOTHING
    out = row.to(tl.int64) * count + name
    logit = tl.where(known, cap - 2 * cap * lowest, float("-inf"))
    token = tl.where(known | (finite == 0), best, -1).to(tl.int64)
    tl.store(logit_ptr + out, tl.where(finite, logit, float("nan")))
    tl.store(token_ptr + out, token)
    if SUMS:
        rate = 2 * cap / tl.load(temperature_ptr + row)
        fall = tl.where(inside & (low < NOTHING), (lowest - low) * rate, 0.0)
        share = tl.exp(fall)
        total = tl.load(sums_ptr + plane + at, mask=inside, other=0.0) * share
        spread = tl.load(sums_ptr + 2 * plane + at, mask=inside, other=0.0) * share
        whole = tl.sum(total, 0)
        entropy = tl.log(whole) - tl.sum(spread + total * fall, 0) / whole
        greedy = tl.load(proposal_ptr + row) == 0
        own_rate = rate / tl.where(greedy, 1.0, tl.load(proposal_ptr + row))
        own = tl.load(sums_ptr + 3 * plane + at, mask=inside, other=0.0).to(tl.float64)
        own *= tl.exp(tl.where(inside & (low < NOTHING), (lowest - low) * own_rate, 0.0))
        own_whole = tl.sum(own, 0)
        top = 0.5 - lowest
        log_total = tl.where(known, rate * top + tl.log(whole), float("-inf"))
        log_own = tl.where(
            known, own_rate * top + tl.log(own_whole.to(tl.float32)), float("-inf")
        )  # fmt: skip
        tl.store(log_total_ptr + out, tl.where(finite, log_total, float("nan")))
        tl.store(log_proposal_ptr + out, tl.where(finite, log_own, float("nan")))
        tl.store(entropy_ptr + out, tl.where(known, entropy, 0.0))

        target = own_whole * tl.load(uniform_ptr + row)
        chosen = _first_reaching(own, target, TILES)
        before = tl.sum(tl.where(each < chosen, own, 0.0), 0)
        part = (target - before) / tl.sum(tl.where(each == chosen, own, 0.0), 0)
        held = (first + chosen).to(tl.int64) * TILE + tl.arange(0, TILE)
        ids = tl.load(tile_ptr + held)
        where = raw_ptr + row.to(tl.int64) * stride + ids
        x = tl.load(where, mask=ids >= 0, other=0.0).to(tl.float32)
        gap = tl.where(ids >= 0, _gap(x, cap), NOTHING)
        weight = tl.exp((tl.min(gap, 0) - gap) * own_rate)
        weight = tl.where(gap < NOTHING, weight, 0.0).to(tl.float64)
        place = _first_reaching(weight, part * tl.sum(weight, 0), TILE)
        drawn = tl.load(tile_ptr + (first + chosen).to(tl.int64) * TILE + place).to(tl.int64)
        tl.store(sample_ptr + out, tl.where(greedy, token, drawn))


def class_maxima_of(raw: Tensor, cap: float, order: ClassOrder) -> ClassMaxima:
    """The best token of each class `(N, C)` of logits `(N, V)` before the softcap."""
    rows, device = len(raw), raw.device
    zeros = torch.zeros(rows, device=device)
    found = _reduced(raw, cap, order, Draws(zeros, zeros, zeros.double()), sums=False)
    return ClassMaxima(found.logit, found.token)


def class_statistics_of(
    raw: Tensor, cap: float, order: ClassOrder, draws: Draws
) -> ClassStatistics:
    """Statistics of every class `(N, C)` of logits `(N, V)` before the softcap."""
    return _reduced(raw, cap, order, Draws(*(each.contiguous() for each in draws)), sums=True)


def _reduced(
    raw: Tensor, cap: float, order: ClassOrder, draws: Draws, *, sums: bool
) -> ClassStatistics:
    rows, vocabulary = raw.shape
    raw = raw if raw.stride(1) == 1 else raw.contiguous()
    tiles, count, device = len(order.tiles), order.classes, raw.device
    planes = torch.empty((4 if sums else 1, rows, tiles), device=device)
    best = torch.empty((rows, tiles), dtype=torch.int32, device=device)
    logit = torch.empty((rows, count), device=device)
    token = torch.empty((rows, count), dtype=torch.int64, device=device)
    made = (3, rows, count) if sums else (3, 1, 1)
    log_total, entropy, log_proposal = torch.empty(made, device=device)
    sample = torch.empty_like(token) if sums else token
    _tile_kernel[(triton.cdiv(rows, TILE_ROWS) * tiles,)](
        raw, draws.temperature, draws.proposal, order.tiles, planes, best,
        rows, vocabulary, raw.stride(0), tiles, cap,
        TILE=TILE, ROWS=TILE_ROWS, SUMS=sums, num_warps=WARPS,
    )  # fmt: skip
    _class_kernel[(rows * count,)](
        raw, draws.temperature, draws.proposal, draws.uniform, order.tiles, order.first_tile,
        planes, best, logit, token, log_total, entropy, log_proposal, sample,
        rows, vocabulary, raw.stride(0), tiles, count, cap,
        TILE=TILE, TILES=triton.next_power_of_2(order.most_tiles), SUMS=sums, num_warps=WARPS,
    )  # fmt: skip
    finite = logit.isnan().any(dim=1).logical_not_()
    return ClassStatistics(logit, token, log_total, entropy, log_proposal, sample, finite)


def class_maxima_triton(
    hidden: Tensor, table: Tensor, cap: float, order: ClassOrder
) -> ClassMaxima:
    """As `class_statistics.class_maxima`, but logits are rounded to the table's dtype first.

    A row whose logits hold NaN or infinity gets NaN for the classes that hold them.
    """
    return class_maxima_of(hidden.to(table.dtype) @ table.t(), cap, order)


def class_statistics_triton(
    hidden: Tensor, table: Tensor, cap: float, order: ClassOrder, draws: Draws
) -> ClassStatistics:
    """As `class_statistics.class_statistics`; logits are rounded to the table's dtype first."""
    return class_statistics_of(hidden.to(table.dtype) @ table.t(), cap, order, draws)


LARGEST_CLASS = 256
"""Tiles of a class that holds the whole vocabulary of the model."""

TYPES = {
    "raw_ptr": "*bf16",
    "uniform_ptr": "*fp64",
    "tile_ptr": "*i32",
    "first_ptr": "*i32",
    "best_ptr": "*i32",
    "token_ptr": "*i64",
    "sample_ptr": "*i64",
    "cap": "fp32",
}


def compile_cases(capability: int) -> list[CompileCase]:
    """Both kernels, with sums and without."""
    del capability  # one configuration serves all
    tile, whole = {"TILE": TILE, "ROWS": TILE_ROWS}, {"TILE": TILE, "TILES": LARGEST_CLASS}
    return [
        _case(f"class {what}{' sums' * sums}", kernel, {**constexprs, "SUMS": sums})
        for what, kernel, constexprs in (
            ("tiles", _tile_kernel, tile),
            ("reduction", _class_kernel, whole),
        )
        for sums in (False, True)
    ]


def _case(name: str, kernel: triton.JITFunction, constexprs: dict[str, int]) -> CompileCase:
    signature = {
        argument: TYPES.get(argument, "*fp32" if argument.endswith("_ptr") else "i32")
        for argument in kernel.arg_names
        if not argument.isupper()
    }
    return CompileCase(name, kernel, signature, dict(constexprs), WARPS, 1, matmul=False)
