"""An engine whose answers are written beforehand; all else about it is the real engine."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from dgemma_backend.chat.protocol import REQUIRED_CONTROLS, Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.config import DecodingDefaults
from dgemma_backend.events import Draft
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.engine import Engine, EngineInfo, Progress
from dgemma_backend.runtime.job import CanvasResult
from dgemma_backend.runtime.request import Request

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


class ScriptedEngine(Engine):
    """Answers with what it was given, in turn, the last answer for ever after.

    An answer is a series of pieces: the name of a control token, or text.
    """

    def __init__(self, *answers: Answer, canvas: int = CANVAS, context: int = 100_000) -> None:
        protocol = Gemma4Protocol(TOKENIZER)
        info = EngineInfo(
            engine="scripted",
            model="scripted",
            folder="",
            device="none",
            dtype="none",
            kernels="none",
            quantization=None,
            canvas_length=canvas,
            context_length=context,
            vocabulary=TOKENIZER.vocab_size,
            parameters=0,
            weight_bytes=0,
        )
        defaults = DecodingDefaults(48, 0.4, 0.8, 0.1, 0.005, 1, protocol.stop_ids, protocol.pad_id)
        super().__init__(info, protocol, defaults, Plugins.load())
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.canvases = 0  # given out so far
        self.running = 0  # answers not finished and not closed

    def _canvases(
        self, request: Request, progress: Progress, drafts: bool
    ) -> Iterator[Draft | CanvasResult]:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        ids = iter(_ids(answer))
        self.running += 1
        try:
            number = 0
            while canvas := list(islice(ids, self.info.canvas_length)):
                request.check()
                canvas += [self._defaults.pad_token_id] * (self.info.canvas_length - len(canvas))
                progress.steps += 2
                for step in (1, 2) if drafts else ():
                    text = TOKENIZER.decode(canvas)
                    yield Draft(number, step, 2, text, tuple(canvas), len(canvas), 0.0)
                progress.canvases += 1
                self.canvases += 1
                yield CanvasResult(number, canvas, 2, True)
                number += 1
        finally:
            self.running -= 1

    def prompt_of(self, number: int = -1) -> str:
        """A prompt it was given, control tokens spelt."""
        return TOKENIZER.decode(self.requests[number].prompt_ids, controls=True)


def _ids(pieces: Answer) -> Iterator[int]:
    for piece in pieces:
        if piece in TOKENIZER.control_ids:
            yield TOKENIZER.control_ids[piece]
        else:
            yield from TOKENIZER.encode_text(piece)


@pytest.fixture
def scripted() -> Callable[..., Any]:
    """Makes an engine that gives the answers it is called with."""
    return ScriptedEngine
