"""The cache holds what the passes may look back at, and no more."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.model.cache import LayerCache


@given(
    pieces=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    window=st.none() | st.integers(1, 30),
)
def test_a_layer_cache_keeps_the_last_positions_in_order(
    pieces: list[int], window: int | None
) -> None:
    total = sum(pieces)
    keys = torch.arange(total * 2.0).view(total, 2, 1).expand(total, 2, 3)
    cache, done = LayerCache(window), 0
    for piece in pieces:
        part = keys[done : done + piece]
        cache.append(part, part + 0.5)
        done += piece
        held = done if window is None else min(done, window)
        found_keys, found_values = cache.prefix(part, None)
        assert torch.equal(found_keys, keys[done - held : done].transpose(0, 1))
        assert torch.equal(found_values, found_keys + 0.5)
        last, _ = cache.prefix(part, 1)
        assert torch.equal(last, keys[done - 1 : done].transpose(0, 1))


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_a_sliding_layer_stops_growing_at_twice_its_window(piece: int) -> None:
    cache = LayerCache(16)
    one = torch.zeros(piece, 2, 4)
    for _ in range(3000 // piece):
        cache.append(one, one)
    assert cache.bytes <= 2 * (2 * 16) * 2 * 4 * 4


def test_a_long_prompt_stores_the_window_in_sliding_layers_and_all_of_it_in_full_ones(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    model = random_model(toy_facts(sliding_window=8))
    cache = model.new_cache()
    with torch.inference_mode():
        for piece in torch.arange(2000).remainder(64).split(250):
            model.encode([piece], [cache])
    sliding, _, full = cache.layers
    heads, width, number = 2, 16, 4
    assert sliding.bytes <= 2 * 2 * 8 * heads * width * number
    assert full.bytes >= 2 * 2000 * 1 * 32 * number
    assert cache.length == 2000


@torch.no_grad()
def test_pieces_of_any_size_encode_to_the_same_prefix(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    model = random_model(toy_facts(sliding_window=5), seed=3)
    tokens = torch.randint(64, (41,), generator=torch.Generator().manual_seed(0))
    canvas = torch.arange(8).unsqueeze(0)
    logits = []
    for piece in (1, 4, 5, 6, 41):
        cache = model.new_cache()
        for part in tokens.split(piece):
            model.encode([part], [cache])
        logits.append(model.denoise(canvas, None, model.canvas_context([cache])).dense())
    for other in logits[1:]:
        assert torch.allclose(other, logits[0], rtol=0, atol=2e-5 * float(logits[0].abs().max()))


@torch.no_grad()
def test_denoising_leaves_the_cache_as_it_was(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    model = random_model(toy_facts())
    cache = model.new_cache()
    model.encode([torch.arange(20)], [cache])
    like = torch.empty(1, 2, 16)
    before = [tuple(t.clone() for t in layer.prefix(like, None)) for layer in cache.layers]
    model.denoise(torch.zeros(1, 8, dtype=torch.long), None, model.canvas_context([cache]))
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        now = layer.prefix(like, None)
        assert torch.equal(now[0], keys)
        assert torch.equal(now[1], values)
    assert cache.length == 20


@torch.no_grad()
def test_a_row_gives_the_same_logits_alone_and_in_company(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    model = random_model(toy_facts(), seed=1)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(64, (n,), generator=generator) for n in (3, 17, 9)]
    canvases = torch.randint(64, (3, 8), generator=generator)
    together = [model.new_cache() for _ in prompts]
    model.encode(prompts, together)
    batched = model.denoise(canvases, None, model.canvas_context(together)).dense()
    for row, prompt in enumerate(prompts):
        alone = model.new_cache()
        model.encode([prompt], [alone])
        context = model.canvas_context([alone])
        single = model.denoise(canvases[row : row + 1], None, context).dense()
        assert torch.allclose(batched[row], single[0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_named_sliding_rule_decides_how_far_a_canvas_looks_back(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    facts = toy_facts(sliding_window=6)
    tokens = torch.randint(64, (30,), generator=torch.Generator().manual_seed(2))
    found = []
    for reach in (None, 6, 5):
        model = random_model(facts, canvas_prefix=reach)
        cache = model.new_cache()
        model.encode([tokens], [cache])
        context = model.canvas_context([cache])
        found.append(model.denoise(torch.zeros(1, 8, dtype=torch.long), None, context).dense())
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


@given(data=st.data())
def test_a_fork_is_what_a_cache_was_and_lives_its_own_life(data: st.DataObject) -> None:
    window = data.draw(st.sampled_from([None, 5, 16]))
    numbers = torch.arange(400.0).view(-1, 1, 1).expand(-1, 2, 4).contiguous()
    cache, done = LayerCache(window), 0
    for size in data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8)):
        cache.append(numbers[done : done + size], -numbers[done : done + size])
        done += size
    length = data.draw(st.integers(0, done))
    if not cache.reaches(length, done):
        assert window is not None
        assert length < done
        return
    fork = cache.fork(length, done, data.draw(st.sampled_from([0, 100])))
    before = [each.clone() for each in cache.prefix(numbers[:0].transpose(0, 1), None)]
    more = data.draw(st.integers(1, 40))
    fork.append(numbers[300 : 300 + more], -numbers[300 : 300 + more])
    expected = torch.cat((numbers[:length], numbers[300 : 300 + more]))
    keys, values = fork.prefix(numbers[:0].transpose(0, 1), None)
    kept = expected.shape[0] if window is None else min(window, expected.shape[0])
    assert torch.equal(keys.transpose(0, 1), expected[-kept:])
    assert torch.equal(values, -keys)
    after = cache.prefix(numbers[:0].transpose(0, 1), None)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_a_sliding_cache_can_be_cut_where_its_window_is_still_whole() -> None:
    cache, ones = LayerCache(8), torch.ones(40, 2, 4)
    cache.append(ones[:6], ones[:6])
    cache.append(ones[:6], ones[:6])
    assert cache.reaches(5, 12)  # nothing has been dropped yet
    cache.append(ones[:10], ones[:10])  # more than a window: what lies between is gone
    assert cache.reaches(22, 22)
    assert not cache.reaches(21, 22)
    assert not cache.reaches(23, 22)
