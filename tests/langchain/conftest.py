"""An engine whose answers are written beforehand; all else about it is the real engine."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend import ScriptedEngine
from dgemma_backend.chat.protocol import REQUIRED_CONTROLS
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.runtime.request import Request
from langchain_dgemma import engines

CANVAS = 7  # tokens; a token is a byte here, so borders fall into words, calls and characters
Answer = Iterable[str]


def byte_tokenizer() -> ChatTokenizer:
    """Control tokens, and one token for every byte."""
    pieces = [*REQUIRED_CONTROLS, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": vocab[name], "content": name, "special": True, **flags}
        for name in (*REQUIRED_CONTROLS, "<unk>")
    ]
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    return ChatTokenizer(
        {
            "version": "1.0",
            "added_tokens": added,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
            "model": {**model, "vocab": vocab, "merges": []},
        }
    )


TOKENIZER = byte_tokenizer()


class Scripted(ScriptedEngine):
    """Answers with what it was given, in turn, the last answer for ever after.

    An answer is a series of pieces: the name of a control token, or text.
    """

    def __init__(self, *answers: Answer, canvas: int = CANVAS, context: int = 100_000) -> None:
        super().__init__(
            self._next, canvas_length=canvas, context_length=context, tokenizer=TOKENIZER
        )
        self.answers = list(answers)

    def _next(self, request: Request) -> Answer:
        return self.answers[min(len(self.requests), len(self.answers)) - 1]

    @property
    def running(self) -> int:
        """Answers not finished and not closed."""
        return sum(not request.cancelled.is_set() for request in self.requests)


@pytest.fixture
def scripted() -> Callable[..., Any]:
    """Makes an engine that gives the answers it is called with."""
    return Scripted


@pytest.fixture
def _obedient_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin in obedient.py, as pip would leave it behind; gone again with the test."""
    info = tmp_path / "obedient-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: obedient\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dgemma_backend]\nobedient = obedient\n")
    for folder in (Path(__file__).parent, tmp_path):
        monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def obedient(_obedient_is_installed: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module obedient.py; models with `engine="obedient"` are made by it.

    `opened` lists the engines of a test; their tokens are bytes and their canvases short.
    """
    module: Any = import_module("obedient")
    plain = {"tokenizer": TOKENIZER, "canvas_length": CANVAS, "context_length": 100_000}
    monkeypatch.setattr(module, "defaults", plain)
    monkeypatch.setattr(module, "opened", [])
    monkeypatch.setattr(engines, "_open", {})
    yield module
    for engine in module.opened:
        engine.close()
