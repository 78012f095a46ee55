"""The vocabulary pass in Triton, around the two matrix products, which are cuBLAS's.

raw logits = hidden @ table.T -> statistics and samples, each logit read once
                              -> probabilities in place of the raw logits, times the table

The expected embedding is no kernel with its exponentials inside the product. One accumulator of
128 x 256 is all a multiprocessor holds, so 11 of them span the 2816 columns, and each would
compute the probabilities anew: 738 M, three special-function results each. On an H100 these
alone take 0.60 ms (16 a clock on 132 multiprocessors), more than the product (0.47 ms). To
write them once costs 268 MB of traffic, 0.09 ms, and leaves the product to cuBLAS.

As in `vocab_pass`, `gap = sigmoid(-2 * raw / cap)` stands for the logit `cap * (1 - 2 * gap)`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase
from dgemma_kernels.vocab import Draws, VocabularyPass, VocabularyStatistics

NOTHING = tl.constexpr(2.0)  # the gap where there is no logit: beyond all others
PRODUCT_TILE = (128, 256)  # what cuBLAS is taken to compute at a time


def block_config(vocabulary: int) -> tuple[int, int]:
    """Columns a program, 16 a thread, and warps; one configuration serves every GPU."""
    block = min(2048, triton.next_power_of_2(vocabulary))
    return block, max(1, block // 512)


@triton.jit
def _gap(x, cap):
    """Of raw logits in float32; none where they are not finite."""
    return tl.where(tl.abs(x) < float("inf"), tl.sigmoid(x * (-2 / cap)), NOTHING)


@triton.jit
def _block_kernel(
    raw_ptr, temperature_ptr, proposal_ptr, sums_ptr, best_ptr,
    rows, vocabulary, stride, blocks, cap,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Four sums of a block of a row, `(4, rows, blocks)`, and its first best token."""
    row, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    cols = block * BLOCK + tl.arange(0, BLOCK)
    inside = cols < vocabulary
    x = tl.load(raw_ptr + row.to(tl.int64) * stride + cols, mask=inside, other=0.0).to(tl.float32)
    gap = tl.where(inside, _gap(x, cap), NOTHING)
    low = tl.min(gap, 0)
    log_weight = (low - gap) * (2 * cap / tl.load(temperature_ptr + row))
    weight = tl.where(inside, tl.exp(log_weight), 0.0)
    total = tl.sum(tl.where(tl.abs(x) < float("inf"), weight, float("nan")), 0)
    own = total
    factor = tl.load(proposal_ptr + row)
    if (factor != 1) & (factor != 0):
        own = tl.sum(tl.where(inside, tl.exp(log_weight / factor), 0.0), 0)
    plane, at = rows * blocks, row * blocks + block
    tl.store(sums_ptr + at, low)
    tl.store(sums_ptr + plane + at, total)
    tl.store(sums_ptr + 2 * plane + at, tl.sum(weight * log_weight, 0))
    tl.store(sums_ptr + 3 * plane + at, own)
    tl.store(best_ptr + at, tl.min(tl.where(gap == low, cols, vocabulary), 0))


@triton.jit
def _first_reaching(weight, target, SIZE: tl.constexpr):
    """The first place with weight at which the sum of `weight (SIZE,)` is `target` or more."""
    at = tl.arange(0, SIZE)
    # Rounding may leave no such place: the last with weight then; 0 where there is no number.
    last = tl.max(tl.where(weight > 0, at, 0), 0)
    reached = (tl.cumsum(weight, 0) >= target) & (weight > 0)
    return tl.minimum(tl.min(tl.where(reached, at, SIZE), 0), last)


@triton.jit
def _finish_kernel(
    raw_ptr, temperature_ptr, proposal_ptr, uniform_ptr, sums_ptr, best_ptr,
    argmax_ptr, sample_ptr, entropy_ptr, log_total_ptr, finite_ptr,
    rows, vocabulary, stride, blocks, cap,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A row's statistics from those of its blocks, and the token at its quantile."""
    row = tl.program_id(0)
    rate = 2 * cap / tl.load(temperature_ptr + row)
    each = tl.arange(0, BLOCKS)
    inside, plane, at = each < blocks, rows * blocks, row * blocks + each
    low = tl.load(sums_ptr + at, mask=inside, other=NOTHING)
    lowest = tl.min(low, 0)
    fall = (lowest - low) * rate
    total = tl.load(sums_ptr + plane + at, mask=inside, other=0.0) * tl.exp(fall)
    spread = tl.load(sums_ptr + 2 * plane + at, mask=inside, other=0.0) * tl.exp(fall)
    whole = tl.sum(total, 0)
    log_whole = tl.log(whole)
    best = tl.load(best_ptr + at, mask=inside & (low == lowest), other=vocabulary)
    argmax = tl.min(best, 0)
    tl.store(argmax_ptr + row, argmax.to(tl.int64))
    tl.store(entropy_ptr + row, log_whole - tl.sum(spread + total * fall, 0) / whole)
    tl.store(log_total_ptr + row, rate * (0.5 - lowest) + log_whole)
    tl.store(finite_ptr + row, whole == whole)

    factor = tl.load(proposal_ptr + row)
    rate /= tl.where(factor == 0, 1.0, factor)
    own = tl.load(sums_ptr + 3 * plane + at, mask=inside, other=0.0)
    own = (own * tl.exp((lowest - low) * rate)).to(tl.float64)
    target = tl.sum(own, 0) * tl.load(uniform_ptr + row)
    block = _first_reaching(own, target, BLOCKS)
    share = (target - tl.sum(tl.where(each < block, own, 0.0), 0)) / tl.sum(
        tl.where(each == block, own, 0.0), 0
    )
    cols = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(
        raw_ptr + row.to(tl.int64) * stride + cols, mask=cols < vocabulary, other=0.0
    ).to(tl.float32)  # fmt: skip
    gap = tl.where(cols < vocabulary, _gap(x, cap), NOTHING)
    weight = tl.where(cols < vocabulary, tl.exp((tl.min(gap, 0) - gap) * rate), 0.0).to(tl.float64)
    column = _first_reaching(weight, share * tl.sum(weight, 0), BLOCK)
    sample = tl.where(factor == 0, argmax, block * BLOCK + column)
    tl.store(sample_ptr + row, sample.to(tl.int64))


def vocabulary_statistics_triton(raw: Tensor, cap: float, draws: Draws) -> VocabularyStatistics:
    """Logits `(N, V)` before the softcap, of any float dtype -> statistics, each `(N,)`.

    As those of `vocab_pass.vocabulary_pass`. `raw` is read once and left as it is.
    """
    rows, vocabulary = raw.shape
    raw = raw if raw.stride(1) == 1 else raw.contiguous()
    temperature, proposal, uniform = (each.contiguous() for each in draws)
    block, warps = block_config(vocabulary)
    blocks, device = triton.cdiv(vocabulary, block), raw.device
    sums = torch.empty((4, rows, blocks), device=device)
    best = torch.empty((rows, blocks), dtype=torch.int32, device=device)
    argmax, sample = torch.empty((2, rows), dtype=torch.int64, device=device)
    entropy, log_total = torch.empty((2, rows), device=device)
    finite = torch.empty(rows, dtype=torch.bool, device=device)
    sizes = rows, vocabulary, raw.stride(0), blocks, cap
    _block_kernel[(rows * blocks,)](
        raw, temperature, proposal, sums, best, *sizes, BLOCK=block, num_warps=warps
    )
    _finish_kernel[(rows,)](
        raw, temperature, proposal, uniform, sums, best,
        argmax, sample, entropy, log_total, finite, *sizes,
        BLOCK=block, BLOCKS=triton.next_power_of_2(blocks),
        num_warps=warps,
    )  # fmt: skip
    return VocabularyStatistics(argmax, sample, entropy, log_total, finite)


@triton.jit
def _share_kernel(
    raw_ptr, temperature_ptr, log_total_ptr, vocabulary, stride, blocks, cap, BLOCK: tl.constexpr
):
    row, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    cols = block * BLOCK + tl.arange(0, BLOCK)
    at = raw_ptr + row.to(tl.int64) * stride + cols
    x = tl.load(at, mask=cols < vocabulary, other=0.0).to(tl.float32)
    rate = 2 * cap / tl.load(temperature_ptr + row)
    top = 0.5 * rate - tl.load(log_total_ptr + row)
    tl.store(at, tl.exp(top - rate * tl.sigmoid(x * (-2 / cap))), mask=cols < vocabulary)


def soft_embedding_triton(
    raw: Tensor, cap: float, temperature: Tensor, log_total: Tensor, table: Tensor
) -> Tensor:
    """As `soft_embedding_reference`, of logits before the softcap, which it **overwrites**.

    `raw (N, V)` and `table (V, D)` of one dtype -> `(N, D)`. Probabilities are rounded to that
    dtype and their products summed in float32, in an order that depends on the shapes only.
    """
    if raw.dtype != table.dtype or raw.stride(1) != 1:
        raise ValueError(
            f"Probabilities take the place of the raw logits: these are {raw.dtype} with strides "
            f"{raw.stride()}, and should have the table's {table.dtype} and rows without gaps."
        )
    rows, vocabulary = raw.shape
    block, warps = block_config(vocabulary)
    blocks = triton.cdiv(vocabulary, block)
    _share_kernel[(rows * blocks,)](
        raw, temperature.contiguous(), log_total.contiguous(), vocabulary, raw.stride(0), blocks,
        cap, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return _product(raw, table)


def _product(share: Tensor, table: Tensor) -> Tensor:
    """`share (N, V) @ table (V, D)` summed in float32, in the table's dtype."""
    if not table.is_cuda:
        return (share.float() @ table.float()).to(table.dtype)
    (rows, vocabulary), width = share.shape, table.shape[1]
    processors = torch.cuda.get_device_properties(table.device).multi_processor_count
    parts = product_parts(rows, width, vocabulary, processors)
    left = share.view(rows, parts, -1).transpose(0, 1)
    right = table.view(parts, -1, width)
    if table.dtype == torch.float32:
        return torch.bmm(left, right).sum(dim=0)
    # Asked for bfloat16, cuBLAS may round partial sums to it.
    return torch.bmm(left, right, out_dtype=torch.float32).sum(dim=0).to(table.dtype)


def product_parts(rows: int, width: int, vocabulary: int, processors: int) -> int:
    """Into how many sums of their own the vocabulary is cut: enough tiles for all processors."""
    tiles = triton.cdiv(rows, PRODUCT_TILE[0]) * triton.cdiv(width, PRODUCT_TILE[1])
    parts = 1
    while tiles * parts < 2 * processors and vocabulary % (2 * parts) == 0 and parts < 32:
        parts *= 2
    return parts


def vocabulary_pass_triton(
    hidden: Tensor, table: Tensor, cap: float, draws: Draws, *, guess: bool
) -> VocabularyPass:
    """As `vocab_pass.vocabulary_pass`, but logits are rounded to the table's dtype first."""
    raw = hidden.to(table.dtype) @ table.t()
    found = vocabulary_statistics_triton(raw, cap, draws)
    expected = None
    if guess:
        expected = soft_embedding_triton(raw, cap, draws.temperature, found.log_total, table)
    return VocabularyPass(*found, expected)


VOCABULARY = 262144


def compile_cases(capability: int) -> list[CompileCase]:
    """All kernels at the model's vocabulary."""
    del capability  # one configuration serves all
    block, warps = block_config(VOCABULARY)
    blocks = triton.next_power_of_2(triton.cdiv(VOCABULARY, block))
    whole = {"BLOCK": block, "BLOCKS": blocks}
    return [
        _case("vocabulary blocks", _block_kernel, {"BLOCK": block}, warps),
        _case("vocabulary finish", _finish_kernel, whole, warps),
        _case("vocabulary shares", _share_kernel, {"BLOCK": block}, warps),
    ]


TYPES = {
    "raw_ptr": "*bf16",
    "uniform_ptr": "*fp64",
    "argmax_ptr": "*i64",
    "sample_ptr": "*i64",
    "finite_ptr": "*i1",
    "best_ptr": "*i32",
    "cap": "fp32",
}


def _case(
    name: str, kernel: triton.JITFunction, constexprs: dict[str, int], warps: int
) -> CompileCase:
    signature = {
        argument: TYPES.get(argument, "*fp32" if argument.endswith("_ptr") else "i32")
        for argument in kernel.arg_names
        if not argument.isupper()
    }
    return CompileCase(name, kernel, signature, dict(constexprs), warps, 1, matmul=False)
