"""Matrix products of many experts in one launch: every program finds its expert by itself.

Slots (one token at one of its experts) lie sorted by expert, so an expert owns a run of them.
Runs are cut into token tiles and the tiles of all experts numbered through; a program looks its
number up in the experts' offsets. So the grid depends on shapes only, whatever the routing, and
programs that share an expert's weights run at the same time.

Weights are the tall, left side of each product: experts see few tokens, and matrix units want 64
rows on the left but take 32 columns on the right.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.compile_case import CompileCase

INTERPRETED = 90  # the capability whose configurations the interpreter runs
ROWS = 128  # of weights in a tile; of them, 64 gate and 64 up rows


class TileConfig(NamedTuple):
    """How a product is cut up, and the launch options that go with it."""

    rows: int  # of the weights
    tokens: int
    depth: int  # columns of the weights in one step of the sum
    num_warps: int
    num_stages: int


# Shared memory for the tiles in flight, so that two programs fit on a multiprocessor.
_TILE_MEMORY = {80: 80_000, 86: 49_152, 89: 49_152, 90: 112_000, 100: 112_000, 120: 49_152}


def capability_of(device: torch.device) -> int:
    """Such as 90 for compute capability 9.0; the interpreter's for a CPU."""
    if device.type != "cuda":
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tile_memory(capability: int) -> int:
    """Bytes of shared memory for tiles, by the nearest capability below that is known."""
    return _TILE_MEMORY[max((c for c in _TILE_MEMORY if c <= capability), default=86)]


def tile_config(
    rows: int, tokens: int, x_bytes: int, weight_bytes: int, capability: int
) -> TileConfig:
    """For tiles of `rows` of the weights and `tokens`; bytes are those of one value of each."""
    decoded = x_bytes > weight_bytes
    depth = 128 // weight_bytes
    if tokens == 128 and decoded:
        depth //= 2  # the activations alone would fill the memory
    copies = tile_memory(capability) // ((rows * weight_bytes + tokens * x_bytes) * depth)
    stages = min(4, max(2, copies))
    if not 90 <= capability < 120:
        stages += 1  # mma.sync frees the tiles of a step before the next ones are asked for
    # Decoded weights go through tensor memory on sm_100, where four warps would spill.
    warps = 8 if rows * tokens > 8192 or (decoded and 100 <= capability < 120) else 4
    return TileConfig(rows, tokens, depth, warps, stages)


def grouped_tiles(
    slots: int, experts: int, x_bytes: int, weight_bytes: int, capability: int
) -> TileConfig:
    """For `slots` spread over `experts`: most experts should get by with one token tile."""
    mean = slots / experts
    tokens = 32 if mean <= 24 else 64 if mean <= 96 else 128
    return tile_config(ROWS, tokens, x_bytes, weight_bytes, capability)


def most_tiles(slots: int, experts: int, tokens: int) -> int:
    """The most tiles of `tokens` that `slots` can fall into, however they are routed."""
    return (slots + min(experts, slots) * (tokens - 1)) // tokens


@triton.jit
def find_tile(offsets_ptr, tile, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr):
    """Tile number -> its expert (`E` or more: no such tile), its first slot, its expert's end."""
    e = tl.arange(0, BLOCK_E)
    start = tl.load(offsets_ptr + e, mask=e < E, other=0)
    end = tl.load(offsets_ptr + e + 1, mask=e < E, other=0)
    tiles = (end - start + BLOCK_T - 1) // BLOCK_T
    expert = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32), 0)
    earlier = tl.sum(tl.where(e < expert, tiles, 0), 0)
    start = tl.sum(tl.where(e == expert, start, 0), 0)
    end = tl.sum(tl.where(e == expert, end, 0), 0)
    return expert, start + (tile - earlier) * BLOCK_T, end


@triton.jit
def decode(weight, like, DECODE: tl.constexpr):
    """A tile of weights as stored -> as multiplied, in the type of the activations `like`."""
    if DECODE == "cast":
        # By way of float32: conversions come in pairs then, straight ones singly and slowly.
        weight = weight.to(tl.float32).to(like.dtype)
    elif DECODE == "bits":
        # e4m3's bits in float16's places are 1/256 of the number; NaN, which no matrix has, is 480.
        bits = (weight.to(tl.int16) << 7) & -0x4001  # the second of two copies of the sign goes
        weight = bits.to(tl.float16, bitcast=True).to(tl.float32).to(like.dtype)
    return weight


@triton.jit
def scaled(product, weight_scale_ptr, weight_row, x_scale_ptr, x_row, DECODE: tl.constexpr):
    """The product `(rows, tokens)` times the scales of its rows and columns, if there are any."""
    if weight_scale_ptr is not None:
        scale = tl.load(weight_scale_ptr + weight_row)
        if DECODE == "bits":
            scale *= 256.0
        product *= scale[:, None]
    if x_scale_ptr is not None:
        product *= tl.load(x_scale_ptr + x_row)[None, :]
    return product


@triton.jit
def _gate_up_kernel(
    x_ptr,
    x_scale_ptr,
    order_ptr,
    offsets_ptr,
    weight_ptr,
    scale_ptr,
    out_ptr,
    TOP_K: tl.constexpr,
    E: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DECODE: tl.constexpr,
):
    """Rows of `x` are gathered where the slots say, rows of `out` written in sorted order."""
    HALF: tl.constexpr = BLOCK_ROWS // 2  # a tile has as many gate rows as up rows
    ROW_TILES: tl.constexpr = (W + HALF - 1) // HALF
    program = tl.program_id(0)
    expert, start, end = find_tile(offsets_ptr, program // ROW_TILES, E, BLOCK_E, BLOCK_T)
    if expert >= E:
        return
    place = start + tl.arange(0, BLOCK_T)
    token = tl.load(order_ptr + tl.minimum(place, end - 1)) // TOP_K
    row = program % ROW_TILES * HALF + tl.arange(0, HALF)
    weight_row = expert.to(tl.int64) * (2 * W) + tl.minimum(row, W - 1)
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + token.to(tl.int64)[None, :] * D + k[:, None]
    gate_ptrs = weight_ptr + weight_row[:, None] * D + k[None, :]
    up_ptrs = gate_ptrs + W * D
    gate = tl.zeros((HALF, BLOCK_T), tl.float32)
    up = tl.zeros((HALF, BLOCK_T), tl.float32)
    for first in range(0, D, BLOCK_K):
        inside = k < D - first
        x = tl.load(x_ptrs + first, mask=inside[:, None], other=0.0)
        gate_tile = decode(tl.load(gate_ptrs + first, mask=inside[None, :], other=0.0), x, DECODE)
        up_tile = decode(tl.load(up_ptrs + first, mask=inside[None, :], other=0.0), x, DECODE)
        gate = tl.dot(gate_tile, x, gate, "ieee", max_num_imprecise_acc=BLOCK_K)
        up = tl.dot(up_tile, x, up, "ieee", max_num_imprecise_acc=BLOCK_K)
    gate = scaled(gate, scale_ptr, weight_row, x_scale_ptr, token, DECODE)
    up = scaled(up, scale_ptr, weight_row + W, x_scale_ptr, token, DECODE)
    # gelu_tanh(g) is g * sigmoid(2 y), y = sqrt(2 / pi) * (g + 0.044715 g**3)
    act = gate * tl.sigmoid(1.5957691216057308 * gate * (1 + 0.044715 * gate * gate)) * up
    out_ptrs = out_ptr + place.to(tl.int64)[None, :] * W + row[:, None]
    tl.store(out_ptrs, act, mask=(place < end)[None, :] & (row < W)[:, None])


@triton.jit
def _down_kernel(
    x_ptr,
    x_scale_ptr,
    order_ptr,
    offsets_ptr,
    weight_ptr,
    scale_ptr,
    out_ptr,
    E: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DECODE: tl.constexpr,
):
    """Rows of `x` are read in sorted order, rows of `out` written where the slots say."""
    ROW_TILES: tl.constexpr = (D + BLOCK_ROWS - 1) // BLOCK_ROWS
    program = tl.program_id(0)
    expert, start, end = find_tile(offsets_ptr, program // ROW_TILES, E, BLOCK_E, BLOCK_T)
    if expert >= E:
        return
    place = start + tl.arange(0, BLOCK_T)
    readable = tl.minimum(place, end - 1)
    row = program % ROW_TILES * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    weight_row = expert.to(tl.int64) * D + tl.minimum(row, D - 1)
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + readable.to(tl.int64)[None, :] * W + k[:, None]
    weight_ptrs = weight_ptr + weight_row[:, None] * W + k[None, :]
    out = tl.zeros((BLOCK_ROWS, BLOCK_T), tl.float32)
    for first in range(0, W, BLOCK_K):
        inside = k < W - first
        x = tl.load(x_ptrs + first, mask=inside[:, None], other=0.0)
        weight = decode(tl.load(weight_ptrs + first, mask=inside[None, :], other=0.0), x, DECODE)
        out = tl.dot(weight, x, out, "ieee", max_num_imprecise_acc=BLOCK_K)
    out = scaled(out, scale_ptr, weight_row, x_scale_ptr, readable, DECODE)
    slot = tl.load(order_ptr + readable)
    out_ptrs = out_ptr + slot.to(tl.int64)[None, :] * D + row[:, None]
    tl.store(out_ptrs, out, mask=(place < end)[None, :] & (row < D)[:, None])


class Rows(NamedTuple):
    """Activations `values (R, K)`, to be multiplied by `scale (R,)` if there is one."""

    values: Tensor
    scale: Tensor | None = None


class Weights(NamedTuple):
    """Matrices as kernels read them: `values (..., N, K)`, `scale (..., N)` or None."""

    values: Tensor
    scale: Tensor | None = None
    decode: str = "as_is"  # or "cast" or "bits": see the function of that name


def check_product(x: Rows, weights: Weights) -> None:
    """Raise ValueError unless rows of `x` can be multiplied by rows of `weights`."""
    if x.values.shape[-1] != weights.values.shape[-1]:
        raise ValueError(
            f"rows of {x.values.shape[-1]} cannot be multiplied by a matrix of shape "
            f"{tuple(weights.values.shape)}: give rows of {weights.values.shape[-1]}"
        )
    if weights.decode == "as_is" and x.values.dtype != weights.values.dtype:
        raise ValueError(
            f"rows of {x.values.dtype} cannot be multiplied by weights of "
            f"{weights.values.dtype}: convert one of them"
        )


def launch_gate_up(
    x: Rows, order: Tensor, offsets: Tensor, weights: Weights, out: Tensor, top_k: int
) -> Tensor:
    """`x (T, D)`, weights `(E, 2W, D)` -> `out (T * top_k, W)`, rows in the order of `order`."""
    experts, twice, dim = weights.values.shape
    return _launch(
        _gate_up_kernel,
        (x, order, offsets, weights, out),
        {"TOP_K": top_k, "E": experts, "W": twice // 2, "D": dim},
        twice,
    )


def launch_down(x: Rows, order: Tensor, offsets: Tensor, weights: Weights, out: Tensor) -> Tensor:
    """`x (S, W)` in the order of `order`, weights `(E, D, W)` -> `out (S, D)`, by slot."""
    experts, dim, width = weights.values.shape
    return _launch(
        _down_kernel,
        (x, order, offsets, weights, out),
        {"E": experts, "W": width, "D": dim},
        dim,
    )


def _launch(
    kernel: Any,
    operands: tuple[Rows, Tensor, Tensor, Weights, Tensor],
    sizes: dict[str, int],
    rows: int,
) -> Tensor:
    x, order, offsets, weights, out = operands
    check_product(x, weights)
    tiles = grouped_tiles(
        len(out),
        sizes["E"],
        x.values.element_size(),
        weights.values.element_size(),
        capability_of(out.device),
    )
    grid = (most_tiles(len(out), sizes["E"], tiles.tokens) * triton.cdiv(rows, tiles.rows),)
    kernel[grid](
        x.values.contiguous(),
        x.scale,
        order,
        offsets,
        weights.values.contiguous(),
        weights.scale,
        out,
        **sizes,
        **_constants(tiles, sizes["E"], weights.decode),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def _constants(tiles: TileConfig, experts: int, decode: str) -> dict[str, Any]:
    return {
        "BLOCK_E": triton.next_power_of_2(experts),
        "BLOCK_ROWS": tiles.rows,
        "BLOCK_T": tiles.tokens,
        "BLOCK_K": tiles.depth,
        "DECODE": decode,
    }


def compile_cases(capability: int) -> list[CompileCase]:
    """Dense experts; those of other formats are cases of their modules."""
    return grouped_cases("dense", "bf16", "bf16", "as_is", capability)


def grouped_cases(
    name: str, x_type: str, weight_type: str, decode: str, capability: int
) -> list[CompileCase]:
    """Both products for one canvas, four canvases and a long prompt; Triton's names of types."""
    return [
        _case(kernel, name, x_type, weight_type, decode, tokens, capability)
        for kernel in (_gate_up_kernel, _down_kernel)
        for tokens in (256, 1024, 8192)
    ]


def _case(
    kernel: Any,
    name: str,
    x_type: str,
    weight_type: str,
    decode: str,
    tokens: int,
    capability: int,
) -> CompileCase:
    size = {"bf16": 2, "fp8e4nv": 1, "i8": 1}
    sizes = {"E": 128, "W": 704, "D": 2816}
    tiles = grouped_tiles(tokens * 8, sizes["E"], size[x_type], size[weight_type], capability)
    signature = {"x_ptr": f"*{x_type}", "weight_ptr": f"*{weight_type}", "out_ptr": "*bf16"}
    signature |= {"order_ptr": "*i32", "offsets_ptr": "*i32"}
    constants = sizes | _constants(tiles, sizes["E"], decode)
    if kernel is _gate_up_kernel:
        constants["TOP_K"] = 8
    for scale, type_ in (("scale_ptr", weight_type), ("x_scale_ptr", x_type)):
        if size[type_] == 1:
            signature[scale] = "*fp32"
        else:
            constants[scale] = None
    title = f"{kernel.__name__.strip('_').removesuffix('_kernel')}, {name}, {tokens} tokens"
    return CompileCase(
        title, kernel, signature, constants, tiles.num_warps, tiles.num_stages, matmul=True
    )
