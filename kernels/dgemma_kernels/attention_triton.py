"""Attention in Triton: one kernel for the canvas, which looks both ways, and for prefill.

A program works on a tile of queries times the heads that share a key head, and walks over blocks
of keys: first those of the prefix, read where the cache holds them, then those of the row. Few
queries leave a GPU idle, so the walk may be split among programs; a second kernel joins the parts.
"""

from functools import cache
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.attention_rows import TABLE_COLUMNS, AttentionRows, is_loadable
from dgemma_kernels.attention_tiles import Tiles, attention_tiles, choose_splits
from dgemma_kernels.compile_case import CompileCase

_ALL = 1 << 30  # a window that leaves nothing out
_MERGED_ROWS = 8
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, table_ptr,
    tokens, window, q_token, q_head, k_token, k_head, v_token, v_head,
    TABLE: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr,
    CAUSAL: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CHUNK: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_CHUNK: tl.constexpr,
):  # fmt: skip
    """A tile of queries against a share of its keys; `out` holds a part for each split."""
    GROUP_ROWS: tl.constexpr = triton.next_power_of_2(GROUP)
    TOKENS: tl.constexpr = ROWS // GROUP_ROWS
    PARTS: tl.constexpr = D // COLUMNS
    entry = table_ptr + tl.program_id(1) // KV_HEADS * TABLE
    kv_head = tl.program_id(1) % KV_HEADS
    prefix = tl.load(entry + 6).to(tl.int32)
    start = tl.load(entry + 7)
    length = (tl.load(entry + 8) - start).to(tl.int32)
    tile = tl.program_id(0) // PARTS
    if CAUSAL:  # later queries see more keys: begin with them
        tile = tl.num_programs(0) // PARTS - 1 - tile
    first_token = tile * TOKENS
    if first_token >= length:
        return
    row = tl.arange(0, ROWS)
    token, head = row // GROUP_ROWS, row % GROUP_ROWS
    real = (token < length - first_token) & (head < GROUP)

    q_tile = q_ptr + (start + first_token) * q_token + kv_head * GROUP * q_head
    q_rows = q_tile + (token * q_token + head * q_head)
    part = tl.program_id(0) % PARTS * COLUMNS
    cached = _cached(entry, kv_head, part, k_ptr.dtype.element_ty)
    fresh_k = k_ptr + start * k_token + kv_head * k_head
    fresh_v = v_ptr + start * v_token + kv_head * v_head + part
    queries = _load_queries(q_rows, real, D, CHUNK)
    first, last = _seen(prefix, length, first_token, window, CAUSAL, SPLITS, TOKENS, KEYS)
    sums, total, unit = _attend(
        queries, token + first_token, prefix, length, first, last, window,
        cached, (fresh_k, fresh_v, k_token, v_token),
        CAUSAL, ROWS, KEYS, D, CHUNK, COLUMNS, COLUMN_CHUNK,
    )  # fmt: skip

    place = tl.program_id(2).to(tl.int64) * tokens + start + first_token
    place = place * (KV_HEADS * GROUP) + kv_head * GROUP
    rows = token * (KV_HEADS * GROUP) + head
    if SPLITS > 1:
        lse = tl.where(total > 0, unit + tl.log2(total), -float("inf"))
        tl.store(lse_ptr + place + rows, lse, mask=real & (part == 0))
    scale = 1 / tl.where(total > 0, total, 1.0)
    out_rows = out_ptr + place * D + part + rows * D
    _store(out_rows, sums, scale, real, COLUMNS, COLUMN_CHUNK)


@triton.jit
def _cached(entry, kv_head, part, dtype: tl.constexpr):
    """A row's prefix: first key, first value, and the step between positions of each."""
    k = tl.load(entry).to(tl.pointer_type(dtype)) + kv_head * tl.load(entry + 2)
    v = tl.load(entry + 1).to(tl.pointer_type(dtype)) + kv_head * tl.load(entry + 4)
    return k, v + part, tl.load(entry + 3).to(tl.int32), tl.load(entry + 5).to(tl.int32)


@triton.jit
def _append(chunks, chunk):
    return chunks + (chunk,)  # noqa: RUF005  Triton does not unpack


@triton.jit
def _load_queries(q_rows, real, D: tl.constexpr, CHUNK: tl.constexpr):
    """The tile's queries, a tensor for each chunk of columns: they stay on the chip."""
    column = tl.arange(0, CHUNK)
    queries = ()
    for c in tl.static_range(0, D, CHUNK):
        chunk = tl.load(q_rows[:, None] + (c + column)[None, :], mask=real[:, None], other=0.0)
        queries = _append(queries, chunk)
    return queries


@triton.jit
def _seen(
    prefix, length, first_token, window,
    CAUSAL: tl.constexpr, SPLITS: tl.constexpr, TOKENS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """This program's share `[first, last)` of the key blocks that its tile sees."""
    prefix_blocks = tl.cdiv(prefix, KEYS)
    first = 0
    last = prefix_blocks + tl.cdiv(length, KEYS)
    if CAUSAL:
        oldest = tl.maximum(prefix + first_token - window + 1, 0)
        in_row = prefix_blocks + (oldest - prefix) // KEYS
        first = tl.where(oldest < prefix, oldest // KEYS, in_row)
        newest = tl.minimum(first_token + TOKENS, length) - 1
        last = prefix_blocks + newest // KEYS + 1
    if SPLITS > 1:
        share = tl.cdiv(last - first, SPLITS)
        first += tl.program_id(2) * share
        last = tl.minimum(first + share, last)
    return first, last


@triton.jit
def _attend(
    queries, position, prefix, length, first, last, window, cached, fresh,
    CAUSAL: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr,
    CHUNK: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums of weighted values, a tensor for each chunk of columns; the sum of the weights; and
    the base-2 logarithm of the unit they are counted in. `position (ROWS,)`: in the row."""
    key = tl.arange(0, KEYS)
    unit = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = ()
    for _ in tl.static_range(0, COLUMNS, COLUMN_CHUNK):
        sums = _append(sums, tl.zeros([ROWS, COLUMN_CHUNK], tl.float32))
    for block in range(first, last):
        k_rows, v_rows, end, offset = _block(block, prefix, length, cached, fresh, KEYS)
        inside = key < end
        scores = _scores(queries, k_rows, inside, ROWS, KEYS, D, CHUNK)
        visible = inside[None, :]
        if CAUSAL:
            reach = position - offset
            newest = tl.minimum(reach, end - 1)
            visible = (key[None, :] <= newest[:, None]) & (key[None, :] > (reach - window)[:, None])
        scores = tl.where(visible, scores, -float("inf"))
        new_unit = tl.maximum(unit, tl.max(scores, 1) * _LOG2_E)
        shift = new_unit
        if CAUSAL:  # a query that has seen no key yet has no unit
            shift = tl.where(new_unit == -float("inf"), 0.0, new_unit)
        weights = tl.exp2(scores * _LOG2_E - shift[:, None])
        fade = tl.exp2(unit - shift)
        unit = new_unit
        total = total * fade + tl.sum(weights, 1)
        sums = _add_values(sums, weights, fade, v_rows, inside, COLUMNS, COLUMN_CHUNK)
    return sums, total, unit


@triton.jit
def _block(block, prefix, length, cached, fresh, KEYS: tl.constexpr):
    """A block of keys in the cache or among the fresh ones: the rows of its keys and values, how
    many it has, and the position of the first, counted from the row's first token."""
    # Both kinds share one loop, because a second loop would cost registers.
    in_cache = block < tl.cdiv(prefix, KEYS)
    at = tl.where(in_cache, block, block - tl.cdiv(prefix, KEYS)) * KEYS
    end = tl.where(in_cache, prefix, length) - at
    offset = tl.where(in_cache, at - prefix, at)
    k_step = tl.multiple_of(tl.where(in_cache, cached[2], fresh[2]), 8)
    v_step = tl.multiple_of(tl.where(in_cache, cached[3], fresh[3]), 8)
    k = tl.where(in_cache, cached[0], fresh[0]) + at.to(tl.int64) * k_step
    v = tl.where(in_cache, cached[1], fresh[1]) + at.to(tl.int64) * v_step
    key = tl.arange(0, KEYS)
    return tl.multiple_of(k, 16) + key * k_step, tl.multiple_of(v, 16) + key * v_step, end, offset


@triton.jit
def _scores(
    queries, k_rows, inside,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, CHUNK)
    scores = tl.zeros([ROWS, KEYS], tl.float32)
    for c in tl.static_range(0, D, CHUNK):
        k = tl.load(k_rows[None, :] + (c + column)[:, None], mask=inside[None, :], other=0.0)
        scores = tl.dot(queries[c // CHUNK], k, scores, input_precision="ieee")
    return scores


@triton.jit
def _add_values(
    sums, weights, fade, v_rows, inside, COLUMNS: tl.constexpr, COLUMN_CHUNK: tl.constexpr
):
    """The sums in their new unit, `fade (ROWS,)` of the old, with the block's values added."""
    column = tl.arange(0, COLUMN_CHUNK)
    added = ()
    for c in tl.static_range(0, COLUMNS, COLUMN_CHUNK):
        v = tl.load(v_rows[:, None] + (c + column)[None, :], mask=inside[:, None], other=0.0)
        faded = sums[c // COLUMN_CHUNK] * fade[:, None]
        added = _append(added, tl.dot(weights.to(v.dtype), v, faded, input_precision="ieee"))
    return added


@triton.jit
def _store(out_rows, sums, scale, real, COLUMNS: tl.constexpr, COLUMN_CHUNK: tl.constexpr):
    column = tl.arange(0, COLUMN_CHUNK)
    for c in tl.static_range(0, COLUMNS, COLUMN_CHUNK):
        out = (sums[c // COLUMN_CHUNK] * scale[:, None]).to(out_rows.dtype.element_ty)
        tl.store(out_rows[:, None] + (c + column)[None, :], out, mask=real[:, None])


@triton.jit
def _merge_kernel(
    part_ptr, lse_ptr, out_ptr, rows, D: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr
):
    """`part (SPLITS, rows, D)` weighted by `2 ** lse (SPLITS, rows)` -> `out (rows, D)`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    unit = tl.full([ROWS], -float("inf"), tl.float32)
    for split in tl.static_range(SPLITS):
        lse = tl.load(lse_ptr + split * rows + row, mask=real, other=0.0)
        unit = tl.maximum(unit, lse)
    column = tl.arange(0, D)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, D], tl.float32)
    for split in tl.static_range(SPLITS):
        weight = tl.exp2(tl.load(lse_ptr + split * rows + row, mask=real, other=0.0) - unit)
        place = (split * rows + row).to(tl.int64) * D
        part = tl.load(part_ptr + place[:, None] + column[None, :], mask=real[:, None], other=0.0)
        total += weight
        out += weight[:, None] * part
    place = row.to(tl.int64) * D
    merged = (out / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place[:, None] + column[None, :], merged, mask=real[:, None])


def attention_triton(
    q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, causal: bool, window: int | None
) -> Tensor:
    """What `attention_reference` computes, for any power of two >= 16 as head width.

    Raises ValueError if shapes or dtypes of q, k, v and the rows' prefixes do not fit together.
    Safe to capture in a CUDA graph once `rows.table` is there; a replay reads that table.
    """
    if causal:
        return causal_attention_triton(q, k, v, rows, window)
    return canvas_attention_triton(q, k, v, rows)


def canvas_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: AttentionRows,
    *,
    tiles: Tiles | None = None,
    splits: int | None = None,
) -> Tensor:
    """`q (T, H, D)`, `k, v (T, KV heads, D)` -> `(T, H, D)`: a query sees its row's whole prefix
    and whole row. `tiles` and `splits` (programs to one tile) replace what is chosen here."""
    return _attention(q, k, v, rows, None, tiles, splits)


def causal_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: AttentionRows,
    window: int | None,
    *,
    tiles: Tiles | None = None,
    splits: int | None = None,
) -> Tensor:
    """As `canvas_attention_triton`, but a token sees itself and what came before: with `window`
    only the last `window` of those, itself included."""
    return _attention(q, k, v, rows, _ALL if window is None else min(window, _ALL), tiles, splits)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: AttentionRows,
    window: int | None,
    tiles: Tiles | None,
    splits: int | None,
) -> Tensor:
    _check(q, k, v, rows)
    q = q if q.stride(2) == 1 else q.contiguous()
    packed = torch.contiguous_format
    k, v = (x if is_loadable(x) else x.clone(memory_format=packed) for x in (k, v))
    (tokens, heads, width), kv_heads = q.shape, k.shape[1]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if tokens == 0:
        return out
    group = heads // kv_heads
    capability, processors = _device(q.device)
    tiles = tiles or attention_tiles(width, group, q.element_size(), capability)
    tile_tokens = tiles.rows // triton.next_power_of_2(group)
    grid = (
        triton.cdiv(rows.max_length, tile_tokens) * (width // tiles.columns),
        len(rows) * kv_heads,
    )
    if splits is None:
        seen = rows.max_prefix + rows.max_length
        if window is not None:
            seen = min(seen, window + tile_tokens)
        splits = choose_splits(grid[0] * grid[1], seen, processors)
    parts, lse = out, out
    if splits > 1:
        parts = torch.empty((splits, *q.shape), dtype=torch.float32, device=q.device)
        lse = torch.empty((splits, tokens, heads), dtype=torch.float32, device=q.device)
    strides = (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2])
    _attention_kernel[(*grid, splits)](
        q, k, v, parts, lse, rows.table, tokens, window or 0, *strides,
        **_constants(kv_heads, group, width, window is not None, splits, tiles),
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    if splits > 1:
        merge_grid = (triton.cdiv(tokens * heads, _MERGED_ROWS),)
        _merge_kernel[merge_grid](
            parts, lse, out, tokens * heads, D=width, SPLITS=splits, ROWS=_MERGED_ROWS
        )
    return out


def _constants(
    kv_heads: int, group: int, width: int, causal: bool, splits: int, tiles: Tiles
) -> dict[str, Any]:
    return {
        "TABLE": TABLE_COLUMNS,
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "D": width,
        "CAUSAL": causal,
        "SPLITS": splits,
        "ROWS": tiles.rows,
        "KEYS": tiles.keys,
        "CHUNK": tiles.chunk,
        "COLUMNS": tiles.columns,
        "COLUMN_CHUNK": tiles.column_chunk,
    }


def _check(q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows) -> None:
    (tokens, heads, width), kv_heads = q.shape, k.shape[1]
    prefix = rows[0].prefix_keys
    if k.shape != (tokens, kv_heads, width) or v.shape != k.shape or heads % kv_heads:
        raise ValueError(
            f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not "
            "fit together"
        )
    if width < 16 or width & (width - 1):
        raise ValueError(f"heads of width {width}: a power of two of at least 16 is needed")
    if rows.tokens != tokens or (prefix.shape[0], prefix.shape[2]) != (kv_heads, width):
        raise ValueError(
            f"rows of {rows.tokens} tokens with prefixes of {tuple(prefix.shape)} do not fit keys "
            f"{tuple(k.shape)}"
        )
    if {k.dtype, v.dtype, prefix.dtype} != {q.dtype}:
        raise ValueError(
            f"queries, keys, values and prefixes are of {q.dtype}, {k.dtype}, {v.dtype} and "
            f"{prefix.dtype}: one dtype is needed"
        )


@cache
def _device(device: torch.device) -> tuple[int, int]:
    """Compute capability and multiprocessors; of an imagined small GPU in the interpreter."""
    if device.type != "cuda":
        return 86, 1
    properties = torch.cuda.get_device_properties(device)
    return properties.major * 10 + properties.minor, properties.multi_processor_count


def compile_cases(capability: int) -> list[CompileCase]:
    """Canvas and prefill at the real sizes of sliding and full layers, whole and split."""
    cases = []
    names = _attention_kernel.arg_names[:14]
    for kind, width, kv_heads in (("sliding", 256, 8), ("full", 512, 2)):
        tiles = attention_tiles(width, 16 // kv_heads, 2, capability)
        for causal, splits in product((False, True), (1, 4)):
            out = "*fp32" if splits > 1 else "*bf16"
            types = ("*bf16", "*bf16", "*bf16", out, "*fp32", "*i64", *["i32"] * 8)
            cases.append(
                CompileCase(
                    f"{'causal' if causal else 'canvas'}_attention_{kind}_{splits}",
                    _attention_kernel,
                    dict(zip(names, types, strict=True)),
                    _constants(kv_heads, 16 // kv_heads, width, causal, splits, tiles),
                    tiles.warps,
                    tiles.stages,
                    matmul=True,
                )
            )
        signature = {"part_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": "*bf16", "rows": "i32"}
        constants = {"D": width, "SPLITS": 4, "ROWS": _MERGED_ROWS}
        name = f"merge_attention_{kind}"
        cases.append(CompileCase(name, _merge_kernel, signature, constants, 4, 2, matmul=False))
    return cases
