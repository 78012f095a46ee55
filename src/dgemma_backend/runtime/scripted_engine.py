"""An engine that says what a function tells it to: for tests of programs that use an engine."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.config import DecodingDefaults
from dgemma_backend.events import Draft
from dgemma_backend.messages import Message
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.engine import Engine, EngineInfo
from dgemma_backend.runtime.feed import Feed
from dgemma_backend.runtime.outbox import CanvasResult
from dgemma_backend.runtime.request import Request
from dgemma_backend.weights.sources import resolve

Script = Callable[[Request], Message | Iterable[str]]
"""A request -> the answer, as an assistant message or in pieces: control tokens by name, else
text."""

_STEPS = 2


class ScriptedEngine(Engine):
    """Runs no model; everything else of an engine is real.

    The prompt is rendered and counted with `tokenizer` (None: the built-in model's), the
    script's answer becomes token ids, and these arrive in canvases of `canvas_length`, so that a
    short one cuts words, calls and thoughts at awkward places. Each canvas takes two denoising
    steps of `step_seconds`. `requests` keeps what was asked.

    Tool choice and response format are not enforced: a script that ignores them shows how a
    program takes that. A script that raises fails its request, as a model would.
    """

    def __init__(
        self,
        script: Script,
        *,
        canvas_length: int = 16,
        context_length: int = 8192,
        step_seconds: float = 0.0,
        tokenizer: ChatTokenizer | None = None,
        name: str = "scripted",
        plugins: Plugins | None = None,
    ) -> None:
        folder = resolve("tiny")
        tokenizer = tokenizer or ChatTokenizer.from_file(folder / "tokenizer.json")
        protocol = Gemma4Protocol(tokenizer)
        info = EngineInfo(
            engine="scripted",
            model=name,
            folder=str(folder),
            device="none",
            dtype="none",
            kernels="none",
            quantization=None,
            canvas_length=canvas_length,
            context_length=context_length,
            vocabulary=tokenizer.vocab_size,
            parameters=0,
            weight_bytes=0,
        )
        own = DecodingDefaults.from_folder(folder)
        defaults = replace(own, stop_token_ids=protocol.stop_ids, pad_token_id=protocol.pad_id)
        super().__init__(info, protocol, defaults, plugins or Plugins.load())
        self.requests: list[Request] = []
        self.canvases = 0
        """Canvases given out so far, to all requests."""
        self._script = script
        self.step_seconds = step_seconds

    def prompt_of(self, number: int = -1) -> str:
        """The prompt of a request, control tokens spelt out."""
        return self._protocol.tokenizer.decode(self.requests[number].prompt_ids, controls=True)

    def _constraint(self, request: Request) -> None:
        """Nothing: keeping to the request's format and tool choice is the script's affair."""

    def _shut(self) -> None:
        """It holds nothing."""

    def _begin(self, request: Request, drafts: bool) -> "ScriptedFeed":
        self.requests.append(request)
        return ScriptedFeed(self, request, drafts, self._ids_of(self._script(request)))

    def _ids_of(self, answer: Message | Iterable[str]) -> Iterator[int]:
        if isinstance(answer, Message):
            yield from self._protocol.answer_ids(answer)
            return
        tokenizer = self._protocol.tokenizer
        for piece in answer:
            known = tokenizer.control_ids.get(piece)
            yield from tokenizer.encode_text(piece) if known is None else [known]


class ScriptedFeed(Feed):
    """The canvases of one scripted answer."""

    def __init__(
        self, engine: ScriptedEngine, request: Request, drafts: bool, answer: Iterator[int]
    ) -> None:
        self._engine = engine
        self._request = request
        self._drafts = drafts
        self._rest = answer
        self._canvas: list[int] = []
        self._number = 0
        self._step = 0

    def get(self) -> Draft | CanvasResult:
        """As `Feed.get`."""
        while True:
            time.sleep(self._engine.step_seconds)
            if (item := self._next()) is not None:
                return item

    async def aget(self) -> Draft | CanvasResult:
        """As `Feed.aget`."""
        while True:
            await asyncio.sleep(self._engine.step_seconds)
            if (item := self._next()) is not None:
                return item

    def commit(self, token_ids: Sequence[int]) -> None:
        """Start on the next canvas; what the reader cut off does not come back."""
        del token_ids
        self._number += 1

    def close(self) -> None:
        """As `Feed.close`."""
        self._request.cancelled.set()

    def _next(self) -> Draft | CanvasResult | None:
        self._request.check()
        if self._step == 0:
            length = self._engine.info.canvas_length
            self._canvas = list(islice(self._rest, length))
            self._canvas += [self._engine._protocol.pad_id] * (length - len(self._canvas))
        self._step += 1
        if self._step <= _STEPS:
            return self._draft() if self._drafts else None
        self._step = 0
        self._engine.canvases += 1
        if self._request.sequences:
            return self._scored()
        return CanvasResult(self._number, self._canvas, _STEPS, converged=True)

    def _scored(self) -> CanvasResult:
        """As good as certain of the sequence that the script wrote."""
        scores = tuple(
            0.0 if list(each) == self._canvas[: len(each)] else -20.0
            for each in self._request.sequences
        )
        return CanvasResult(self._number, [], 1, converged=True, scores=scores)

    def _draft(self) -> Draft:
        canvas = tuple(self._canvas)
        text = self._engine._protocol.tokenizer.decode(canvas)
        return Draft(self._number, self._step, _STEPS, text, canvas, len(canvas), 0.0)
