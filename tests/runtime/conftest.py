"""An engine over the embedded model, shared by the tests of a worker."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

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
