"""Compilers for the embedded model's tokenizer and for random ones; samples and judges."""

import importlib.util
import json
import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.constraint import ConstraintCompiler, Limits
from dgemma_backend.tiny import CHECKPOINT

FULL_SIZE = Path(__file__).parents[3] / "shared/reference/data/gemma4_tokenizer.json.xz"
PATIENT = Limits(seconds=30)


def _judges() -> Any:
    """The program judges.py as a module; test folders are no packages."""
    path = Path(__file__).with_name("judges.py")
    spec = importlib.util.spec_from_file_location("constraint_judges", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def judges() -> Any:
    return _judges()


@pytest.fixture(scope="session")
def protocol() -> Gemma4Protocol:
    return Gemma4Protocol(ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json"))


@pytest.fixture(scope="session")
def tiny(judges: Any) -> ConstraintCompiler:
    compiler: ConstraintCompiler = judges.tiny_compiler(PATIENT)
    return compiler


@pytest.fixture(scope="session")
def random_compiler(judges: Any) -> Callable[[int], ConstraintCompiler]:
    """A compiler for a vocabulary of random pieces, by seed."""

    @cache
    def make(seed: int) -> ConstraintCompiler:
        compiler: ConstraintCompiler = judges.random_compiler(seed, PATIENT)
        return compiler

    return make


@pytest.fixture(scope="session")
def accepts(tiny: ConstraintCompiler) -> Callable[..., bool]:
    """Whether an automaton takes a text, in single bytes, and then an end token."""
    byte_ids: dict[int, int] = {}
    for id_, piece in enumerate(tiny.vocabulary.token_bytes):
        if piece is not None and len(piece) == 1:
            byte_ids.setdefault(piece[0], id_)
    assert len(byte_ids) == 256

    def accepts(constraint: Any, text: str | bytes) -> bool:
        data = text.encode() if isinstance(text, str) else text
        automaton = constraint.automaton
        ids = [*(byte_ids[byte] for byte in data), tiny.markers.ends[0]]
        return bool(automaton.advance(automaton.start, ids) == automaton.done)

    return accepts


@pytest.fixture(scope="session")
def full_size(judges: Any) -> ConstraintCompiler:
    """For the published tokenizer of 262,144 tokens, where it is at hand."""
    if not FULL_SIZE.exists():
        pytest.skip("the full-size tokenizer is not beside this checkout")
    tokenizer = ChatTokenizer(json.loads(lzma.decompress(FULL_SIZE.read_bytes())))
    return ConstraintCompiler(
        judges.vocabulary_of(Gemma4Protocol(tokenizer)),
        judges.markers_of(tokenizer),
        limits=PATIENT,
    )
