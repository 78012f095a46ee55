"""The memory that a model is said to take is the memory it takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dgemma_backend.config import Encoding, ModelConfig, PublishedQuantization
from dgemma_backend.errors import SettingError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into
from dgemma_backend.weights.formats import Fp8, Int4, QuantizationFormat
from dgemma_backend.weights.memory import memory_needed
from dgemma_backend.weights.placing import memory_of, stored_matrices

GB = 1e9


@pytest.mark.parametrize(
    ("format", "weights", "total"),
    [
        (None, (50.50, 50.51), (51.0, 52.5)),
        (Fp8(), (26.0, 26.2), (26.5, 27.5)),
        (Int4(), (15.2, 15.4), (15.6, 17.5)),
    ],
)
def test_the_published_model_with_8k_context_takes_what_is_promised(
    published_config: ModelConfig,
    format: QuantizationFormat | None,
    weights: tuple[float, float],
    total: tuple[float, float],
) -> None:
    found = memory_needed(published_config, format, context=8192, canvases=1)
    assert weights[0] < sum(found.weights.values()) / GB < weights[1]
    assert total[0] < found.total / GB <= total[1]
    assert found.total == sum(found.weights.values()) + found.cache + found.canvas


def test_the_parts_are_those_of_the_model_card(published_config: ModelConfig) -> None:
    found = memory_needed(published_config)
    assert {name: round(size / GB, 2) for name, size in found.weights.items()} == {
        "experts": 45.68,
        "attention and MLP": 3.29,
        "embedding": 1.48,
        "other": 0.06,
    }
    kib = 1024
    assert found.cache == 8192 * 5 * 4 * kib + 2048 * 25 * 8 * kib  # 4 and 8 KiB a token and layer
    assert found.canvas > 256 * 262_144 * 2
    longest = memory_needed(published_config, context=262_144)
    assert longest.cache == 262_144 * 5 * 4 * kib + 2048 * 25 * 8 * kib  # sliding layers: bounded
    four = memory_needed(published_config, canvases=4)
    assert four.cache == 4 * found.cache
    assert four.weights == found.weights
    assert four.canvas > 3 * found.canvas


def test_a_published_encoding_is_counted_as_it_is_stored(published_config: ModelConfig) -> None:
    left = ("*router*", "*vision*", "*self_conditioning*")
    scheme = PublishedQuantization(
        "compressed-tensors", Encoding("fp8", 0), left, input_scales=False, declared={}
    )
    stored = replace(published_config, quantization=scheme)
    assert memory_needed(stored) == memory_needed(published_config, Fp8())


@pytest.mark.parametrize("format", [None, Int4(), Fp8()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_to_the_byte(
    checkpoint: Path,
    empty_model: Callable[[], DiffusionGemma],
    small_config: ModelConfig,
    format: QuantizationFormat | None,
    dtype: torch.dtype,
) -> None:
    model = empty_model()
    load_into(model, checkpoint, dtype=dtype, device="cpu", quantization=format)
    has = sum(memory_of(matrix) for _, matrix in stored_matrices(model))
    assert sum(memory_needed(small_config, format, 8, dtype=dtype).weights.values()) == has


@pytest.mark.parametrize("context", [1, 5, 64, 65, 300, 2000])
@pytest.mark.parametrize("piece", [64, 512])
def test_the_cache_grows_to_what_is_counted_and_not_beyond(
    toy_facts: Callable[..., dict[str, Any]],
    random_model: Callable[..., Any],
    context: int,
    piece: int,
) -> None:
    kinds = ["sliding_attention", "full_attention"]
    model = random_model(toy_facts(sliding_window=128, num_hidden_layers=2, layer_types=kinds))
    cache = model.new_cache()
    with torch.no_grad():
        for tokens in torch.zeros(context, dtype=torch.int64).split(piece):
            model.encode([tokens], [cache])
    counted = memory_needed(model.config, None, context, dtype=torch.float32).cache
    assert counted / 2 <= cache.bytes <= counted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context=0 must be a whole number from 1 to 262144"),
        ({"context": 262_145}, "context=262145 must be"),
        ({"canvases": 0}, "canvases=0 must be a whole number from 1 to 1024"),
    ],
)
def test_numbers_out_of_range_are_refused(
    published_config: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        memory_needed(published_config, None, **changes)
