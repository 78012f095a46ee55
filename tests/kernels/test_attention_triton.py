"""Attention in Triton against float64, one row at a time, and against its torch reference."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from dgemma_kernels import attention_triton as triton_attention
from dgemma_kernels.attention import attention_reference
from dgemma_kernels.attention_rows import AttentionRow, AttentionRows, is_loadable
from dgemma_kernels.attention_tiles import Tiles, attention_tiles, choose_splits
from dgemma_kernels.attention_triton import (
    attention_triton,
    canvas_attention_triton,
    causal_attention_triton,
)

pytestmark = pytest.mark.usefixtures("poisoned_empty", "quick_interpreter")

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SMALL = Tiles(rows=16, keys=16, chunk=16, columns=16, column_chunk=16, warps=4, stages=2)
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def quick_interpreter() -> Iterator[None]:
    """Without what makes the interpreter four times slower here and finds nothing.

    It patches the language anew for every function that a kernel calls, and repeats integer
    arithmetic in 64 bits for an assertion that never fails.
    """
    original = interpreter._patch_lang

    def patch_once(function: Any) -> Any:
        globals_ = function.__globals__.values()
        languages = [each for each in globals_ if each is tl or each is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return original(function)
        return interpreter._LangPatchScope()

    builder = interpreter.interpreter_builder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", patch_once)
        patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))
        yield


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prefixes(positions: int, like: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Views into longer caches, laid out in two ways, with NaN wherever the views do not look."""
    kv_heads, width = like.shape[1:]
    inside = slice(4, 4 + positions)
    keys = torch.full((kv_heads, positions + 9, width), float("nan"))
    keys[:, inside] = randn(kv_heads, positions, width, seed=seed)
    values = torch.full((positions + 9, kv_heads + 1, width), float("nan"))
    values[inside, :-1] = randn(positions, kv_heads, width, seed=seed + 1)
    keys, values = (each.to(like.device, like.dtype) for each in (keys, values))
    return keys[:, inside], values[inside, :-1].transpose(0, 1)


def problem(
    device: str,
    lengths: list[int],
    positions: list[int],
    heads: tuple[int, int] = (4, 2),
    width: int = 16,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensors, AttentionRows]:
    """q, k and v with scores of about two, and their rows."""
    tokens, (q_heads, kv_heads) = sum(lengths), heads
    q = (randn(tokens, q_heads, width) * 2 * width**-0.5).to(device, dtype)
    k = randn(tokens, kv_heads, width, seed=1).to(device, dtype)
    v = randn(tokens, kv_heads, width, seed=2).to(device, dtype)
    bounds = [sum(lengths[:place]) for place in range(len(lengths) + 1)]
    rows = AttentionRows(
        AttentionRow(start, stop, *prefixes(count, k, seed=10 + 2 * number))
        for number, ((start, stop), count) in enumerate(
            zip(pairwise(bounds), positions, strict=True)
        )
    )
    return (q, k, v), rows


def exact(
    tensors: Tensors, rows: AttentionRows, causal: bool = False, window: int | None = None
) -> torch.Tensor:
    """Every score of a row in one matrix, in float64."""
    q, k, v = (each.double() for each in tensors)
    group = q.shape[1] // k.shape[1]
    found = []
    for row in rows:
        keys = torch.cat((row.prefix_keys.double(), k[row.start : row.stop].transpose(0, 1)), 1)
        values = torch.cat((row.prefix_values.double(), v[row.start : row.stop].transpose(0, 1)), 1)
        keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
        scores = torch.einsum("thd,hkd->htk", q[row.start : row.stop], keys)
        if causal:
            ends = torch.arange(keys.shape[1], device=q.device)
            query = ends[row.prefix_keys.shape[1] :].unsqueeze(1)
            unseen = ends > query
            if window is not None:
                unseen |= ends <= query - window
            scores = scores.masked_fill(unseen, -torch.inf)
        found.append(torch.einsum("htk,hkd->thd", scores.softmax(-1), values))
    return torch.cat(found)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.isfinite(found).all()
    assert float((found.double() - expected).abs().max()) < TOLERANCE[found.dtype]


EDGES = [0, 1, 15, 16, 17, 33]  # around one block of keys


@pytest.mark.parametrize(("length", "splits"), [(1, 1), (8, 1), (17, 1), (1, 5), (17, 3)])
def test_a_canvas_sees_all_of_its_prefix_and_of_itself(
    kernel_device: str, length: int, splits: int
) -> None:
    tensors, rows = problem(kernel_device, [length] * len(EDGES), EDGES, (2, 1))
    found = canvas_attention_triton(*tensors, rows, tiles=SMALL, splits=splits)
    assert_close(found, exact(tensors, rows))


@pytest.mark.parametrize("window", [None, 1, 16, 17])
def test_prefill_sees_what_came_before_and_no_further_than_the_window(
    kernel_device: str, window: int | None
) -> None:
    tensors, rows = problem(kernel_device, [1, 19, 9, 16], [0, 16, 35, 1], (2, 1))
    expected = exact(tensors, rows, causal=True, window=window)
    for splits in (1, 3):
        found = causal_attention_triton(*tensors, rows, window, tiles=SMALL, splits=splits)
        assert_close(found, expected)


@pytest.mark.parametrize(("causal", "splits"), [(False, 1), (True, 4)])
def test_rows_of_a_batch_have_prefixes_and_lengths_of_their_own(
    kernel_device: str, causal: bool, splits: int
) -> None:
    tensors, rows = problem(kernel_device, [5, 18, 0, 1, 9], [40, 0, 3, 17, 1])
    if causal:
        found = causal_attention_triton(*tensors, rows, 20, tiles=SMALL, splits=splits)
    else:
        found = canvas_attention_triton(*tensors, rows, tiles=SMALL, splits=splits)
    assert_close(found, exact(tensors, rows, causal, 20))


@pytest.mark.parametrize(
    ("heads", "width"),
    [((2, 2), 16), ((4, 2), 64), ((4, 1), 32), ((8, 1), 16), ((6, 2), 32), ((24, 1), 16)],
)
@pytest.mark.parametrize("causal", [False, True])
def test_any_number_of_query_heads_may_share_a_key_head(
    kernel_device: str, heads: tuple[int, int], width: int, causal: bool
) -> None:
    tensors, rows = problem(kernel_device, [7, 3], [21, 2], heads, width)
    found = attention_triton(*tensors, rows, causal, 12)
    assert_close(found, exact(tensors, rows, causal, 12))


@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize("capability", [80, 86, 90, 100, 120])
def test_the_tiles_of_every_gpu_compute_the_same(
    kernel_device: str, capability: int, width: int
) -> None:
    heads, causal = ((2, 1), False) if width == 256 else ((8, 1), True)
    tensors, rows = problem(kernel_device, [9], [66], heads, width, torch.bfloat16)
    tiles = attention_tiles(width, heads[0], 2, capability)
    if causal:
        found = causal_attention_triton(*tensors, rows, 60, tiles=tiles, splits=2)
    else:
        found = canvas_attention_triton(*tensors, rows, tiles=tiles, splits=2)
    assert_close(found, exact(tensors, rows, causal, 60))


def test_a_gpu_without_tiles_of_its_own_gets_those_of_the_one_before() -> None:
    for width in (16, 64, 128, 256, 512):
        for group in (1, 8, 128):
            for new, known in ((87, 86), (103, 100), (121, 120)):
                tiles = attention_tiles(width, group, 2, new)
                assert tiles == attention_tiles(width, group, 2, known)
                assert (width % tiles.columns, width % tiles.chunk) == (0, 0)
                assert tiles.rows >= group


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_every_dtype_equals_the_reference(
    kernel_device: str, causal: bool, dtype: torch.dtype
) -> None:
    tensors, rows = problem(kernel_device, [20, 9], [30, 70], (4, 2), 32, dtype)
    found = attention_triton(*tensors, rows, causal, 24 if causal else None)
    expected = attention_reference(*tensors, rows, causal, 24 if causal else None)
    assert found.dtype == dtype
    assert_close(found, expected.double())
    assert_close(found, exact(tensors, rows, causal, 24))


def test_queries_keys_and_values_may_be_columns_of_one_projection(kernel_device: str) -> None:
    heads, kv_heads, width = 4, 2, 16
    _, rows = problem(kernel_device, [11], [20])
    fused = randn(11, (heads + 2 * kv_heads) * width).to(kernel_device)
    q, k, v = (
        each.view(11, -1, width)
        for each in fused.split([heads * width, kv_heads * width, kv_heads * width], dim=1)
    )
    assert not k.is_contiguous()
    assert_close(attention_triton(q, k, v, rows, False, None), exact((q, k, v), rows))


def test_keys_that_cannot_be_loaded_wide_are_copied(
    kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[torch.Tensor] = []
    kernel = triton_attention._attention_kernel

    class Watched:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def launch(*arguments: Any, **options: Any) -> None:
                launched.extend(arguments[1:3])
                kernel[grid](*arguments, **options)

            return launch

    monkeypatch.setattr(triton_attention, "_attention_kernel", Watched())
    _, rows = problem(kernel_device, [5], [20])
    odd = randn(5 * 2 * 17 + 1).to(kernel_device)[1:].view(5, 2, 17)
    q = randn(16, 4, 5).to(kernel_device).permute(2, 1, 0)
    k, v = odd[..., :16], odd[..., 1:]
    assert_close(attention_triton(q, k, v, rows, False, None), exact((q, k, v), rows))
    assert [is_loadable(each) for each in (k, v, *launched)] == [False, False, True, True]


@pytest.mark.parametrize("causal", [False, True])
def test_equal_values_come_out_as_they_are(kernel_device: str, causal: bool) -> None:
    (q, k, v), rows = problem(kernel_device, [13], [37])
    rows[0].prefix_values.fill_(1.5)
    out = attention_triton(q, k, torch.full_like(v, 1.5), rows, causal, 9)
    assert torch.allclose(out, torch.full_like(out, 1.5), atol=1e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_large_scores_neither_overflow_nor_lose_the_winner(kernel_device: str, splits: int) -> None:
    (q, k, v), rows = problem(kernel_device, [9], [40])
    for sign in (1, -1):
        tensors = (q * 60 * sign, k, v)
        found = canvas_attention_triton(*tensors, rows, tiles=SMALL, splits=splits)
        assert torch.isfinite(found).all()
        assert torch.allclose(found.double(), exact(tensors, rows), atol=1e-3)


def test_a_launch_serves_other_caches_once_their_table_is_loaded(kernel_device: str) -> None:
    tensors, rows = problem(kernel_device, [6, 12], [40, 3])
    table = rows.table
    assert rows.table is table
    # As in a captured graph: only what lies behind this address changes.
    address = table.data_ptr()
    for lengths, counts in (([12, 6], [0, 90]), ([9, 9], [1, 16])):
        _, other = problem(kernel_device, lengths, counts)
        rows.load(other)
        assert (rows.table is table, table.data_ptr()) == (True, address)
        assert (rows.max_length, rows.max_prefix) == (12, 40)
        assert rows[1] is other[1]
        found = canvas_attention_triton(*tensors, rows, tiles=SMALL, splits=4)
        assert_close(found, exact(tensors, other))


def test_rows_load_only_what_fits_their_launch(kernel_device: str) -> None:
    _, rows = problem(kernel_device, [6, 12], [40, 3])
    for lengths, counts, wrong in (
        ([18], [3], "2 sequences"),
        ([6, 11], [3, 3], "18 tokens"),
        ([5, 13], [3, 3], "13 tokens"),
    ):
        with pytest.raises(ValueError, match=wrong):
            rows.load(problem(kernel_device, lengths, counts)[1])
    with pytest.raises(ValueError, match="heads, width, dtype"):
        rows.load(problem(kernel_device, [6, 12], [3, 3], width=32)[1])


def test_the_table_says_where_each_prefix_lies(kernel_device: str) -> None:
    _, rows = problem(kernel_device, [2, 3], [5, 0])
    keys, values = rows[0].prefix_keys, rows[0].prefix_values
    strides = [14 * 16, 16, 16, 3 * 16]
    place = [keys.data_ptr(), values.data_ptr(), *strides, 5, 0, 2]
    assert rows.table[0].tolist() == place
    assert rows.table[1, -3:].tolist() == [0, 2, 5]
    assert (len(rows), rows.tokens, rows.max_length, rows.max_prefix) == (2, 5, 3, 5)
    assert [row.start for row in rows[:2]] == [0, 2]


def test_rows_that_do_not_belong_together_are_refused() -> None:
    some = torch.zeros(2, 3, 16)
    for rows, wrong in (
        ([], "at least one"),
        ([AttentionRow(1, 2, some, some)], "cannot follow 0"),
        ([AttentionRow(0, 2, some, some), AttentionRow(3, 4, some, some)], "cannot follow 2"),
        ([AttentionRow(0, 2, some, some[:, :2])], "differ in shape"),
        ([AttentionRow(0, 2, some, some.half())], "float16"),
    ):
        with pytest.raises(ValueError, match=wrong):
            AttentionRows(rows)
    for odd in (some.transpose(1, 2).contiguous().transpose(1, 2), torch.zeros(2, 3, 17)[..., 1:]):
        with pytest.raises(ValueError, match="16 bytes"):
            _ = AttentionRows([AttentionRow(0, 2, odd, odd)]).table


def test_shapes_and_dtypes_that_do_not_fit_are_refused(kernel_device: str) -> None:
    (q, k, v), rows = problem(kernel_device, [6], [4])
    for (queries, keys, values), wrong in (
        ((q[:5], k, v), "do not fit together"),
        ((q[:, :3], k, v), "do not fit together"),
        ((q[:5], k[:5], v[:5]), "rows of 6 tokens"),
        ((q[:, :1], k[:, :1], v[:, :1]), "do not fit keys"),
        ((q[..., :8], k[..., :8], v[..., :8]), "width 8"),
        ((q.half(), k.half(), v.half()), "one dtype"),
    ):
        with pytest.raises(ValueError, match=wrong):
            attention_triton(queries, keys, values, rows, False, None)


def test_the_same_launch_gives_the_same_bits(kernel_device: str) -> None:
    tensors, rows = problem(kernel_device, [9], [50], (2, 1), dtype=torch.bfloat16)
    first, second = (
        canvas_attention_triton(*tensors, rows, tiles=SMALL, splits=3) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_keys_are_split_where_programs_leave_a_gpu_idle_and_not_where_they_fill_it() -> None:
    assert choose_splits(32, 1279, 132) == 4
    assert choose_splits(64, 40_000, 132) == 2
    assert choose_splits(132, 1279, 132) == 1
    assert choose_splits(2048, 1279, 132) == 1
    assert choose_splits(8, 64, 132) == 1  # less than starting another program costs


def test_an_idle_gpu_is_split_for_without_being_asked(
    kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_attention, "_device", lambda _: (86, 100))
    asked: list[int] = []

    def choose(*arguments: int) -> int:
        asked.append(choose_splits(*arguments))
        return asked[-1]

    monkeypatch.setattr(triton_attention, "choose_splits", choose)
    tensors, rows = problem(kernel_device, [6], [500], (2, 1))
    for causal, window in ((False, None), (True, None), (True, 3)):
        assert_close(
            attention_triton(*tensors, rows, causal, window),
            exact(tensors, rows, causal, window),
        )
    assert asked[0] == asked[1] > 1
    assert asked[2] == 1  # a window leaves nothing to split
