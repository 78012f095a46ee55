"""A small checkpoint with random weights, vision tower included."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dgemma_backend.config import DecodingDefaults, ModelConfig
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import expected_tensors, save

DECODING = DecodingDefaults(
    max_denoising_steps=4,
    t_min=0.4,
    t_max=0.8,
    entropy_bound=0.1,
    confidence_threshold=0.005,
    stability_threshold=1,
    stop_token_ids=(1,),
    pad_token_id=0,
)


@pytest.fixture(scope="session")
def published_config() -> ModelConfig:
    """The published 26B model's shape."""
    path = Path(__file__).parents[1] / "config" / "data" / "published_config.json"
    return ModelConfig.from_dict(json.loads(path.read_text()))


@pytest.fixture(scope="session")
def small_config(toy_facts: Callable[..., dict[str, Any]]) -> ModelConfig:
    """A model of some 40,000 parameters."""
    return ModelConfig.from_dict(toy_facts())


@pytest.fixture(scope="session")
def tower(small_config: ModelConfig) -> dict[str, torch.Tensor]:
    """Random values for the small model's vision tower."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(each.shape, generator=generator)
        for name, each in expected_tensors(small_config).items()
        if each.role == "vision"
    }


@pytest.fixture(scope="session")
def small_model(
    toy_facts: Callable[..., dict[str, Any]], random_model: Callable[..., Any]
) -> DiffusionGemma:
    """The small model, with random weights."""
    model: DiffusionGemma = random_model(toy_facts(), seed=3)
    return model


@pytest.fixture
def write(
    small_model: DiffusionGemma, small_config: ModelConfig, tower: dict[str, torch.Tensor]
) -> Callable[..., Path]:
    """Saves the small model into a folder; keyword arguments go to `save`."""

    def make(folder: Path, **changes: Any) -> Path:
        options: dict[str, Any] = {
            "config": small_config,
            "decoding": DECODING,
            "extra": tower,
            "dtype": torch.float32,
            "manifest": False,
        }
        save(small_model, folder, **{**options, **changes})
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return make


@pytest.fixture
def checkpoint(tmp_path: Path, write: Callable[..., Path]) -> Path:
    """The small model's folder, in three shards, without a manifest."""
    return write(tmp_path / "checkpoint", max_shard_bytes=120_000)


@pytest.fixture
def empty_model(small_config: ModelConfig) -> Callable[[], DiffusionGemma]:
    """The small model on the meta device."""

    def make() -> DiffusionGemma:
        with torch.device("meta"):
            return DiffusionGemma(small_config)

    return make


@pytest.fixture
def wide_checkpoint(
    tmp_path: Path, toy_facts: Callable[..., dict[str, Any]], random_model: Callable[..., Any]
) -> Path:
    """Some 60 MB of weights in several shards, without a vision tower."""
    facts = toy_facts(vocab_size=30_000, hidden_size=256, num_experts=32, moe_intermediate_size=128)
    del facts["vision_config"]
    model = random_model(facts)
    folder = tmp_path / "wide"
    save(
        model,
        folder,
        config=model.config,
        decoding=DECODING,
        dtype=torch.float32,
        max_shard_bytes=10**7,
    )
    return folder
