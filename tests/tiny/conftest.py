import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgemma_backend import open_engine
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.runtime.engine import Engine
from dgemma_backend.tiny import CHECKPOINT

TRAINER = Path(__file__).parents[2] / "examples" / "tiny_model"
sys.path.insert(0, str(TRAINER))  # the trainer is a program, not an installed package


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with open_engine("tiny", device="cpu", dtype="float32") as engine:
        yield engine
