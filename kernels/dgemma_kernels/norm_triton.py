"""Root-mean-square normalisation in Triton: a whole row stays in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase

TILE = 4096  # elements a program holds of each input, sixteen a thread


def norm_config(width: int) -> tuple[int, int, int]:
    """Rows a program, columns a row is padded to, and warps; bound by memory, so for every GPU."""
    block = triton.next_power_of_2(width)
    rows = max(1, min(16, TILE // 2 // block))
    return rows, block, max(1, min(16, rows * block // 512))


@triton.jit
def _normalised(x, WIDTH: tl.constexpr, eps):
    """Rows in float32, zero where they are padded."""
    return x * tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + eps)


@triton.jit
def _weighted(x_ptr, at, mask, weight_ptr, cols, eps, WIDTH: tl.constexpr):
    """The norm of rows of `x_ptr`, rounded as if it had been written and read again."""
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    weight = tl.load(weight_ptr + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    return (_normalised(x.to(tl.float32), WIDTH, eps) * weight).to(x.dtype).to(tl.float32)


@triton.jit
def _rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, rows, stride, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (cols < WIDTH)
    x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0).to(tl.float32)
    normed = _normalised(x, WIDTH, eps)
    if weight_ptr is not None:
        normed *= tl.load(weight_ptr + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * WIDTH + cols, normed, mask=mask)


@triton.jit
def _post_attention_kernel(
    x_ptr, attended_ptr, post_ptr, dense_ptr, expert_ptr,
    residual_ptr, dense_in_ptr, expert_in_ptr,
    rows, x_stride, attended_stride, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask, inside = (row < rows) & (cols < WIDTH), cols < WIDTH
    x = tl.load(x_ptr + row * x_stride + cols, mask=mask, other=0.0)
    post = _weighted(attended_ptr, row * attended_stride + cols, mask, post_ptr, cols, eps, WIDTH)
    residual = (x.to(tl.float32) + post).to(x.dtype)
    normed = _normalised(residual.to(tl.float32), WIDTH, eps)
    dense = tl.load(dense_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    expert = tl.load(expert_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    at = row * WIDTH + cols
    tl.store(residual_ptr + at, residual, mask=mask)
    tl.store(dense_in_ptr + at, normed * dense, mask=mask)
    tl.store(expert_in_ptr + at, normed * expert, mask=mask)


@triton.jit
def _layer_tail_kernel(
    residual_ptr, dense_ptr, mixture_ptr,
    dense_weight_ptr, mixture_weight_ptr, post_ptr, scalar_ptr, next_ptr,
    x_ptr, normed_ptr,
    rows, residual_stride, dense_stride, mixture_stride, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask, inside = (row < rows) & (cols < WIDTH), cols < WIDTH
    both = _weighted(dense_ptr, row * dense_stride + cols, mask, dense_weight_ptr, cols, eps, WIDTH)
    both += _weighted(
        mixture_ptr, row * mixture_stride + cols, mask, mixture_weight_ptr, cols, eps, WIDTH
    )
    residual = tl.load(residual_ptr + row * residual_stride + cols, mask=mask, other=0.0)
    kind = residual.dtype
    post = tl.load(post_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    added = _normalised(both.to(kind).to(tl.float32), WIDTH, eps) * post
    x = (residual.to(tl.float32) + added.to(kind).to(tl.float32)).to(kind)
    x = (x.to(tl.float32) * tl.load(scalar_ptr).to(tl.float32)).to(kind)
    following = tl.load(next_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    at = row * WIDTH + cols
    tl.store(x_ptr + at, x, mask=mask)
    tl.store(normed_ptr + at, _normalised(x.to(tl.float32), WIDTH, eps) * following, mask=mask)


def rms_norm_triton(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """As `rms_norm_reference`: `(..., D)`, weight `(D,)` or None -> same shape and dtype."""
    width = x.shape[-1]
    flat = _rows(x.reshape(-1, width))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows, block, warps = norm_config(width)
    _rms_norm_kernel[(triton.cdiv(len(flat), rows),)](
        flat, None if weight is None else weight.contiguous(), out, len(flat), flat.stride(0), eps,
        WIDTH=width, ROWS=rows, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


def post_attention_triton(
    x: Tensor, attended: Tensor, post: Tensor, dense: Tensor, expert: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `post_attention_reference`: `(T, D)` twice, three weights `(D,)` -> three `(T, D)`.

    Everything of one dtype; each step is rounded to it, as the unfused steps would be.
    """
    tokens, width = x.shape
    x, attended = _rows(x), _rows(attended)
    outs = [torch.empty((tokens, width), dtype=x.dtype, device=x.device) for _ in range(3)]
    rows, block, warps = norm_config(width)
    _post_attention_kernel[(triton.cdiv(tokens, rows),)](
        x, attended, post.contiguous(), dense.contiguous(), expert.contiguous(), *outs,
        tokens, x.stride(0), attended.stride(0), eps,
        WIDTH=width, ROWS=rows, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return outs[0], outs[1], outs[2]


def layer_tail_triton(
    residual: Tensor,
    dense: Tensor,
    mixture: Tensor,
    dense_weight: Tensor,
    mixture_weight: Tensor,
    post_weight: Tensor,
    scalar: Tensor,
    next_weight: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As `layer_tail_reference`: three `(T, D)`, weights `(D,)`, scalar `(1,)` -> two `(T, D)`.

    Everything of one dtype; each step is rounded to it, as the unfused steps would be.
    """
    tokens, width = residual.shape
    residual, dense, mixture = _rows(residual), _rows(dense), _rows(mixture)
    x, normed = (
        torch.empty((tokens, width), dtype=residual.dtype, device=residual.device) for _ in range(2)
    )
    rows, block, warps = norm_config(width)
    _layer_tail_kernel[(triton.cdiv(tokens, rows),)](
        residual, dense, mixture,
        dense_weight.contiguous(), mixture_weight.contiguous(), post_weight.contiguous(),
        scalar, next_weight.contiguous(), x, normed,
        tokens, residual.stride(0), dense.stride(0), mixture.stride(0), eps,
        WIDTH=width, ROWS=rows, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return x, normed


def _rows(x: Tensor) -> Tensor:
    """Rows may lie apart from one another, the elements of one may not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def compile_cases(capability: int) -> list[CompileCase]:
    """The kernels at the model's hidden size, and the plain norm at both head sizes too."""
    del capability  # one configuration serves all
    hidden = 2816
    unweighted = _case("rms_norm unweighted", _rms_norm_kernel, hidden)
    signature = {name: kind for name, kind in unweighted.signature.items() if name != "weight_ptr"}
    constexprs = {**unweighted.constexprs, "weight_ptr": None}
    return [
        *(_case(f"rms_norm {width}", _rms_norm_kernel, width) for width in (hidden, 256, 512)),
        unweighted._replace(signature=signature, constexprs=constexprs),
        _case("post_attention", _post_attention_kernel, hidden),
        _case("layer_tail", _layer_tail_kernel, hidden),
    ]


def _case(name: str, kernel: triton.JITFunction, width: int) -> CompileCase:
    rows, block, warps = norm_config(width)
    signature = {
        argument: "*bf16" if argument.endswith("_ptr") else "fp32" if argument == "eps" else "i32"
        for argument in kernel.arg_names
        if not argument.isupper()
    }
    constexprs = {"WIDTH": width, "ROWS": rows, "BLOCK": block}
    return CompileCase(name, kernel, signature, constexprs, warps, 1, matmul=False)
