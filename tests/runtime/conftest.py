"""An engine over the embedded model, shared by the tests of a worker."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend import Engine, open_engine
from dgemma_backend.tiny import CHECKPOINT


@pytest.fixture(scope="session")
def tiny() -> Iterator[Engine]:
    with open_engine("tiny", device="cpu") as engine:
        yield engine


@pytest.fixture
def copy_of_tiny(tmp_path: Path) -> Callable[[], Path]:
    """A copy of the embedded checkpoint's folder, to be damaged."""

    def copy() -> Path:
        return Path(shutil.copytree(CHECKPOINT, tmp_path / "copy"))

    return copy


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Engine]:
    """The embedded model with a stop id it never writes, so that answers go on and on."""
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "endless"))
    path = folder / "generation_config.json"
    decoding = json.loads(path.read_text())
    unused = json.loads((folder / "config.json").read_text())["image_token_id"]
    path.write_text(json.dumps({**decoding, "eos_token_id": [unused]}))
    with open_engine(str(folder), device="cpu") as engine:
        yield engine


@pytest.fixture
def long_context(tmp_path: Path) -> Path:
    """The embedded model's folder with room for 16,384 tokens."""
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "long"))
    path = folder / "config.json"
    facts = json.loads(path.read_text())
    facts["text_config"]["max_position_embeddings"] = 16_384
    path.write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="session")
def random_folder(
    toy_facts: Callable[..., dict[str, Any]],
    random_model: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A small model of random weights with the embedded tokenizer, in float32.

    A pass takes a few milliseconds, hardly an answer ends by itself, and canvases of 8 tokens
    behind a window of 8 pass every border soon.
    """
    import torch

    from dgemma_backend.config import DecodingDefaults
    from dgemma_backend.weights.saving import save

    own = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    kinds = ["sliding_attention", "full_attention"]
    facts = toy_facts(
        vocab_size=own["vocab_size"],
        max_position_embeddings=1024,
        num_hidden_layers=2,
        layer_types=kinds,
    )
    model = random_model(facts)
    model.embed_tokens.weight.mul_(3.0)  # sharper, so that some canvases settle before their cap
    folder = tmp_path_factory.mktemp("random") / "model"
    decoding = DecodingDefaults.from_folder(CHECKPOINT)
    config = replace(model.config, vision=None)
    save(model, folder, config=config, decoding=decoding, dtype=torch.float32, manifest=False)
    shutil.copy(CHECKPOINT / "tokenizer.json", folder)
    return folder
