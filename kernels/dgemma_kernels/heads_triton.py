"""The norms of queries, keys and values and the rotation of the first two, in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase

TILE = 2048  # elements of one program, sixteen a thread


def heads_config(kv_heads: int, dim: int) -> tuple[int, int, int]:
    """Heads a program, pairs a head is padded to, and warps; bound by memory, so for every GPU."""
    block = triton.next_power_of_2(dim // 2)
    heads = max(1, min(triton.next_power_of_2(kv_heads), TILE // 2 // block))
    return heads, block, max(1, min(8, heads * block // 256))


@triton.jit
def _tile(
    x_ptr, out_ptr, weight_ptr, cos_ptr, sin_ptr, token, first, token_stride, head_stride, eps,
    HEADS: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some heads of one token, each in two halves; without a weight there is no rotation."""
    HALF: tl.constexpr = DIM // 2
    head = first + tl.arange(0, ROWS)[:, None]
    pair = tl.arange(0, BLOCK)[None, :]
    mask = (head < HEADS) & (pair < HALF)
    at = x_ptr + token * token_stride + head.to(tl.int64) * head_stride + pair
    x_left, x_right = tl.load(at, mask=mask, other=0.0), tl.load(at + HALF, mask=mask, other=0.0)
    kind = x_left.dtype
    left, right = x_left.to(tl.float32), x_right.to(tl.float32)
    squares = tl.sum(left * left + right * right, 1, keep_dims=True)
    scale = tl.rsqrt(squares / DIM + eps)
    left, right = left * scale, right * scale
    if weight_ptr is not None:
        inside = pair < HALF
        left *= tl.load(weight_ptr + pair, mask=inside, other=0.0).to(tl.float32)
        right *= tl.load(weight_ptr + HALF + pair, mask=inside, other=0.0).to(tl.float32)
        # Rounded as if the norm had been written and read again.
        left, right = left.to(kind).to(tl.float32), right.to(kind).to(tl.float32)
        cos = tl.load(cos_ptr + token * HALF + pair, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + token * HALF + pair, mask=inside, other=0.0).to(tl.float32)
        left, right = left * cos - right * sin, right * cos + left * sin
    to = out_ptr + (token * HEADS + head) * DIM + pair
    tl.store(to, left, mask=mask)
    tl.store(to + HALF, right, mask=mask)


@triton.jit
def _heads_kernel(
    q_ptr, k_ptr, v_ptr, q_out_ptr, k_out_ptr, v_out_ptr,
    q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr,
    q_token, q_head, k_token, k_head, v_token, v_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    Q_TILES: tl.constexpr = (HEADS + ROWS - 1) // ROWS
    KV_TILES: tl.constexpr = (KV_HEADS + ROWS - 1) // ROWS
    token, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tile < Q_TILES:
        _tile(
            q_ptr, q_out_ptr, q_weight_ptr, cos_ptr, sin_ptr, token, tile * ROWS,
            q_token, q_head, eps, HEADS, DIM, ROWS, BLOCK,
        )  # fmt: skip
    elif tile < Q_TILES + KV_TILES:
        _tile(
            k_ptr, k_out_ptr, k_weight_ptr, cos_ptr, sin_ptr, token, (tile - Q_TILES) * ROWS,
            k_token, k_head, eps, KV_HEADS, DIM, ROWS, BLOCK,
        )  # fmt: skip
    else:
        _tile(
            v_ptr, v_out_ptr, None, None, None, token, (tile - Q_TILES - KV_TILES) * ROWS,
            v_token, v_head, eps, KV_HEADS, DIM, ROWS, BLOCK,
        )  # fmt: skip


def heads_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `heads_reference`: `q (T, H, D)`, `k, v (T, KV heads, D)`, weights `(D,)`, angles
    `(T, D/2)` of any floating dtype -> q, k, v, in the dtype of the queries.

    The rotation is computed in float32 from norms rounded to that dtype, and rounded once.
    """
    tokens, heads, dim = q.shape
    kv_heads = k.shape[1]
    q, k, v = _heads(q), _heads(k), _heads(k if v is None else v)
    outs = [
        torch.empty((tokens, count, dim), dtype=q.dtype, device=q.device)
        for count in (heads, kv_heads, kv_heads)
    ]
    rows, block, warps = heads_config(kv_heads, dim)
    tiles = triton.cdiv(heads, rows) + 2 * triton.cdiv(kv_heads, rows)
    _heads_kernel[(tokens, tiles)](
        q, k, v, *outs,
        q_weight.contiguous(), k_weight.contiguous(), cos.contiguous(), sin.contiguous(),
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), eps,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, ROWS=rows, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return outs[0], outs[1], outs[2]


def _heads(x: Tensor) -> Tensor:
    """Tokens and heads may lie apart, the elements of one head may not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def compile_cases(capability: int) -> list[CompileCase]:
    """The model's sliding layers and its full ones."""
    del capability  # one configuration serves all
    cases = []
    for name, kv_heads, dim in (("sliding", 8, 256), ("full", 2, 512)):
        rows, block, warps = heads_config(kv_heads, dim)
        signature = {
            name: "*bf16" if name.endswith("_ptr") else "fp32" if name == "eps" else "i32"
            for name in _heads_kernel.arg_names
            if not name.isupper()
        }
        constexprs = {
            "HEADS": 16, "KV_HEADS": kv_heads, "DIM": dim, "ROWS": rows, "BLOCK": block
        }  # fmt: skip
        case = CompileCase(
            f"heads {name}", _heads_kernel, signature, constexprs, warps, 1, matmul=False
        )
        cases.append(case)
    return cases
