"""The engine as its users see it: a conversation and settings in, the events of a reply out."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from threading import Event as Flag
from typing import Any, Self

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.config import DecodingDefaults
from dgemma_backend.errors import EngineClosedError, GenerationError, UnknownSettingError
from dgemma_backend.events import CanvasCommitted, Draft, Event, Finished, ParsedEvent
from dgemma_backend.messages import Message, Reply, Tool, ToolChoice, Usage
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.answer import Answer
from dgemma_backend.runtime.background import stream_in_background
from dgemma_backend.runtime.job import CanvasResult
from dgemma_backend.runtime.registry import registered_engine
from dgemma_backend.runtime.request import Request, as_messages, open_request, usable_tools
from dgemma_backend.settings import GenerationSettings

Conversation = str | Sequence[Message]
Settings = GenerationSettings | Mapping[str, Any] | None


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is and runs on. Lengths are in tokens."""

    engine: str
    model: str
    folder: str
    device: str
    dtype: str
    kernels: str
    quantization: str | None
    canvas_length: int
    context_length: int
    vocabulary: int
    parameters: int
    weight_bytes: int


@dataclass(frozen=True)
class RequestRecord:
    """What observers learn when a request is over: its reply, or the error that ended it.

    A reader that leaves early shows as `GeneratorExit`.
    """

    model: str
    seed: int
    prompt_tokens: int
    reply: Reply | None
    error: BaseException | None


@dataclass
class Progress:
    """What a request has cost so far."""

    prefill_seconds: float = 0.0
    canvases: int = 0
    steps: int = 0
    first_text: float | None = None


class Engine(ABC):
    """Answers conversations. Safe to share between threads and event loops.

    Every kind of engine shares this class: rendering, cutting, parsing and accounting are done
    here, and only `_canvases` differs.
    """

    def __init__(
        self,
        info: EngineInfo,
        protocol: Gemma4Protocol,
        defaults: DecodingDefaults,
        plugins: Plugins,
    ) -> None:
        self.info = info
        self.closed = False
        self._protocol = protocol
        self._defaults = defaults
        self._plugins = plugins

    def generate(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        settings: Settings = None,
    ) -> Reply:
        """The whole reply to a conversation (a string is one user message).

        Raises `PromptError`, `SettingError` or `UnknownPluginError` before any pass runs, and
        `GenerationError` if the request fails later; the engine then serves the next request.
        """
        request = self._open(messages, tools, tool_choice, settings)
        return _reply_of(self._run(request, drafts=False))

    def stream(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        settings: Settings = None,
        drafts: bool = False,
    ) -> Iterator[Event]:
        """The events of a reply; with `drafts`, also the canvas after every step.

        Settings and prompt are checked here, not at the first `next`. Closing the iterator stops
        the work. Raises as `generate` does.
        """
        return self._run(self._open(messages, tools, tool_choice, settings), drafts=drafts)

    async def agenerate(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        settings: Settings = None,
    ) -> Reply:
        """`generate` that leaves the event loop free; cancelling the task stops the work."""
        last: Event | None = None
        events = self.astream(messages, tools=tools, tool_choice=tool_choice, settings=settings)
        async for event in events:
            last = event
        return _reply_of(iter([last] if last is not None else []))

    async def astream(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        settings: Settings = None,
        drafts: bool = False,
    ) -> AsyncIterator[Event]:
        """`stream` that leaves the event loop free; leaving it early stops the work."""
        cancelled = Flag()

        def run() -> Iterator[Event]:
            request = self._open(messages, tools, tool_choice, settings)
            request.cancelled = cancelled
            return self._run(request, drafts=drafts)

        try:
            async for event in stream_in_background(run):
                yield event
        finally:
            cancelled.set()

    def count_tokens(
        self, messages: Conversation, tools: Sequence[Tool] = (), *, thinking: bool = False
    ) -> int:
        """Tokens of the prompt this conversation makes."""
        prompt = self._protocol.prompt_ids(as_messages(messages), tools, thinking=thinking)
        return len(prompt)

    def token_ids(self, text: str) -> list[int]:
        """Ids of a plain text, with nothing of a conversation around it."""
        return self._protocol.tokenizer.encode_text(text)

    def close(self) -> None:
        """Let go of the model. Requests under way fail; later ones raise `EngineClosedError`."""
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _canvases(
        self, request: Request, progress: Progress, drafts: bool
    ) -> Iterator[Draft | CanvasResult]:
        """Settled canvases of a request, one after another, each preceded by its drafts if
        wanted. The caller closes the iterator when the answer has ended."""

    def _open(
        self,
        messages: Conversation,
        tools: Sequence[Tool],
        tool_choice: ToolChoice | None,
        settings: Settings,
    ) -> Request:
        if self.closed:
            raise EngineClosedError(
                f"The engine of {self.info.model!r} was closed. open_engine(...) gives a new one."
            )
        if not isinstance(settings, GenerationSettings):
            settings = GenerationSettings.from_mapping(settings or {})
        self._plugins.sampler(settings.sampler)  # unknown names are refused at the door
        self._plugins.stop_rule(settings.stop_rule)
        declared = usable_tools(tools, tool_choice)
        prompt = self._protocol.prompt_ids(
            as_messages(messages), declared, thinking=settings.thinking
        )
        canvas, context = self.info.canvas_length, self.info.context_length
        return open_request(prompt, declared, settings, self._defaults, canvas, context)

    def _run(self, request: Request, *, drafts: bool) -> Iterator[Event]:
        """The events of an opened request; sees to it that observers learn how it ended."""
        reply: Reply | None = None
        error: BaseException | None = None
        try:
            for event in self._events(request, drafts):
                if isinstance(event, Finished):
                    reply = event.reply
                yield event
        except BaseException as raised:
            error = None if reply else raised
            raise
        finally:
            request.cancelled.set()
            self._plugins.request_finished(
                RequestRecord(self.info.model, request.seed, len(request.prompt_ids), reply, error)
            )

    def _events(self, request: Request, drafts: bool) -> Iterator[Event]:
        answer = self._new_answer(request)
        progress = Progress()
        with closing(self._canvases(request, progress, drafts)) as canvases:  # type: ignore[type-var]
            for result in canvases:
                if isinstance(result, Draft):
                    yield result
                    continue
                kept, events = answer.take(result.token_ids)
                committed = CanvasCommitted(
                    result.number, tuple(kept), result.steps, result.converged
                )
                self._plugins.on_canvas(committed)
                yield from _timed(events, progress)
                yield committed
                if answer.ended is not None:
                    break
        yield from _timed(answer.finish(), progress)
        yield Finished(self._reply(request, answer, progress))

    def _new_answer(self, request: Request) -> Answer:
        parser = self._protocol.new_parser(
            request.tools,
            seed=request.seed,
            position=len(request.prompt_ids),
            thinking=request.settings.thinking,
            prompt=request.prompt_ids,
        )
        return Answer(
            parser, request.settings.stop, self._defaults.stop_token_ids, request.max_tokens
        )

    def _reply(self, request: Request, answer: Answer, progress: Progress) -> Reply:
        elapsed = time.perf_counter() - request.started
        first = progress.first_text
        usage = Usage(
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=answer.tokens,
            reasoning_tokens=answer.reasoning_tokens,
            canvases=progress.canvases,
            denoising_steps=progress.steps,
            tokens_per_forward=answer.tokens / max(progress.steps, 1),
            prefill_seconds=progress.prefill_seconds,
            decode_seconds=elapsed - progress.prefill_seconds,
            first_text_seconds=elapsed if first is None else first - request.started,
        )
        return Reply(
            text=answer.text,
            reasoning=answer.reasoning,
            tool_calls=tuple(answer.calls),
            invalid_tool_calls=tuple(answer.invalid_calls),
            finish_reason=answer.finish_reason,
            usage=usage,
            seed=request.seed,
            model=self.info.model,
        )


def open_engine(
    model: str = "tiny",
    *,
    engine: str = "auto",
    quantization: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kernels: str = "auto",
    **options: Any,
) -> Engine:
    """An engine for a model: `"tiny"` (built in), a folder, or a hub id.

    The same arguments give the same live engine, so weights are loaded once in a process.
    `engine` names a kind that a plugin registered ("auto": in this process), `device` is "auto",
    "cpu" or "cuda[:N]", `dtype` "auto", "float32" or "bfloat16", `kernels` "auto" or a
    registered name. Raises `ModelNotFoundError`, `CheckpointError`, `ConfigError`,
    `UnknownPluginError` or `SettingError`.
    """
    plugins = Plugins.load()
    factory = plugins.engine("torch" if engine == "auto" else engine)
    chosen: dict[str, Any] = {
        "quantization": quantization,
        "device": device,
        "dtype": dtype,
        "kernels": kernels,
        **options,
    }
    _check_options(factory, chosen)
    opened: Engine = registered_engine(
        (engine, str(model), *sorted((key, repr(value)) for key, value in chosen.items())),
        lambda: factory(model, plugins=plugins, **chosen),
    )
    return opened


def _check_options(factory: Callable[..., Engine], chosen: Mapping[str, Any]) -> None:
    parameters = signature(factory).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for name in chosen:
        if name not in parameters:
            known = [each for each in parameters if each not in ("model", "plugins", "self")]
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownSettingError(
                f"open_engine has no option {name!r}.{hint} There are: {', '.join(known)}."
            )


def _timed(events: list[ParsedEvent], progress: Progress) -> list[ParsedEvent]:
    if events and progress.first_text is None:
        progress.first_text = time.perf_counter()
    return events


def _reply_of(events: Iterator[Event]) -> Reply:
    (last,) = deque(events, maxlen=1)  # every request that raises nothing ends with its reply
    if not isinstance(last, Finished):
        raise GenerationError(f"The request ended with {last!r} instead of a reply.")
    return last.reply
