"""The gated activation in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase

LARGEST_BLOCK = 1024


def geglu_config(width: int) -> tuple[int, int]:
    """Columns a program and warps, eight columns a thread; bound by memory, so for every GPU."""
    block = min(LARGEST_BLOCK, triton.next_power_of_2(width))
    return block, max(1, block // 256)


@triton.jit
def _geglu_kernel(gate_up_ptr, out_ptr, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    at = gate_up_ptr + row * stride + cols
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    y = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)  # sqrt(2 / pi)
    gelu = gate * tl.sigmoid(2 * y)  # (1 + tanh(y)) / 2 is sigmoid(2y)
    tl.store(out_ptr + row * width + cols, gelu * up, mask=inside)


def geglu_triton(gate_up: Tensor) -> Tensor:
    """As `geglu_reference`, rounded only once: `(T, 2W)`, gate first -> `(T, W)`."""
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    gate_up = gate_up if gate_up.stride(-1) == 1 else gate_up.contiguous()
    out = torch.empty((tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    block, warps = geglu_config(width)
    _geglu_kernel[(tokens, triton.cdiv(width, block))](
        gate_up, out, width, gate_up.stride(0), BLOCK=block, num_warps=warps
    )
    return out


def compile_cases(capability: int) -> list[CompileCase]:
    """The widths of the dense MLP and of an expert."""
    del capability  # one configuration serves all
    signature = {"gate_up_ptr": "*bf16", "out_ptr": "*bf16", "width": "i32", "stride": "i32"}
    cases = []
    for width in (2112, 704):
        block, warps = geglu_config(width)
        case = CompileCase(
            f"geglu {width}", _geglu_kernel, signature, {"BLOCK": block}, warps, 1, matmul=False
        )
        cases.append(case)
    return cases
