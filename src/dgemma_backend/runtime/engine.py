"""The engine as its users see it: a conversation and settings in, the events of a reply out."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Self

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.config import DecodingDefaults
from dgemma_backend.errors import (
    EngineClosedError,
    GenerationError,
    UnknownSettingError,
)
from dgemma_backend.events import CanvasCommitted, Draft, Event, Finished
from dgemma_backend.messages import (
    Message,
    Reply,
    ResponseFormat,
    Tool,
    ToolChoice,
    UnsafeRawPrompt,
)
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.answer import Answer, ThoughtBudget
from dgemma_backend.runtime.answering import Answering
from dgemma_backend.runtime.feed import Feed
from dgemma_backend.runtime.outbox import CanvasResult
from dgemma_backend.runtime.registry import registered_engine, release
from dgemma_backend.runtime.request import Request, as_messages, open_request, usable_tools
from dgemma_backend.settings import GenerationSettings

Conversation = str | UnsafeRawPrompt | Sequence[Message]
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


class Engine(ABC):
    """Answers conversations. Safe to share between threads and event loops.

    Every kind of engine shares this class: rendering, cutting, parsing and accounting are done
    here, and only `_begin` differs.
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
        self._recipe: tuple[Any, ...] | None = None

    def generate(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        settings: Settings = None,
    ) -> Reply:
        """The whole reply to a conversation (a string is one user message).

        Raises `PromptError`, `SettingError` or `UnknownPluginError` before any pass runs, and
        `GenerationError` if the request fails later; the engine then serves the next request.
        """
        request = self._open(messages, tools, tool_choice, response_format, settings)
        return _reply_of(self._run(request, drafts=False))

    def stream(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        settings: Settings = None,
        drafts: bool = False,
    ) -> Iterator[Event]:
        """The events of a reply; with `drafts`, also the canvas after every step.

        Settings and prompt are checked here, not at the first `next`. Closing the iterator stops
        the work. Raises as `generate` does.
        """
        return self._run(
            self._open(messages, tools, tool_choice, response_format, settings), drafts=drafts
        )

    async def agenerate(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        settings: Settings = None,
    ) -> Reply:
        """`generate` that leaves the event loop free; cancelling the task stops the work."""
        opened = partial(self._open, messages, tools, tool_choice, response_format, settings)
        return await _last_reply(self._arun(opened, drafts=False))

    async def astream(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        settings: Settings = None,
        drafts: bool = False,
    ) -> AsyncIterator[Event]:
        """`stream` that leaves the event loop free; leaving it early stops the work.

        No thread waits for the answer: the engine's own wakes the loop.
        """
        opened = partial(self._open, messages, tools, tool_choice, response_format, settings)
        async with aclosing(self._arun(opened, drafts=drafts)) as events:
            async for event in events:
                yield event

    def count_tokens(
        self, messages: Conversation, tools: Sequence[Tool] = (), *, thinking: bool = False
    ) -> int:
        """Tokens of the prompt this conversation makes."""
        return len(self._rendered(messages, tools, thinking)[1])

    def token_ids(self, text: str) -> list[int]:
        """Ids of a plain text, with nothing of a conversation around it."""
        return self._protocol.tokenizer.encode_text(text)

    def close(self) -> None:
        """Let go of the model; call it once for every `open_engine` that returned this engine.

        With the last of them the weights are freed, requests under way fail, and later ones
        raise `EngineClosedError`.
        """
        if not self.closed and release(self):
            self.closed = True
            self._shut()

    @abstractmethod
    def _shut(self) -> None:
        """Free what the engine holds; requests under way end with `EngineClosedError`."""

    def __copy__(self) -> Self:
        """The same engine: weights are never copied."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """The same engine: weights are never copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: how to open it, not what is open."""
        if self._recipe is None:
            raise TypeError(
                f"The engine of {self.info.model!r} was not made by open_engine, so pickle cannot "
                "say how to open it again. Pickle what it was made from."
            )
        return self._recipe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _constraint(self, request: Request) -> Any:
        """What `_begin` needs to keep to a request's tool choice and response format.

        Raises `SettingError` for what cannot be guaranteed.
        """

    @abstractmethod
    def _begin(self, request: Request, drafts: bool) -> Feed:
        """Start on a request. Raises `QueueFullError`, `EngineClosedError`; never waits."""

    def _open(
        self,
        messages: Conversation,
        tools: Sequence[Tool],
        tool_choice: ToolChoice | None,
        response_format: ResponseFormat | None,
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
        conversation, prompt = self._rendered(messages, declared, settings.thinking)
        canvas, context = self.info.canvas_length, self.info.context_length
        request = open_request(prompt, declared, settings, self._defaults, canvas, context)
        request = replace(
            request,
            messages=conversation,
            tool_choice=tool_choice,
            response_format=response_format,
        )
        return replace(request, constraint=self._constraint(request))

    def _rendered(
        self, messages: Conversation, tools: Sequence[Tool], thinking: bool
    ) -> tuple[list[Message], list[int]]:
        """A conversation and its prompt ids; with a raw prompt there is no conversation."""
        if isinstance(messages, UnsafeRawPrompt):
            return [], self._protocol.unsafe_prompt_ids(messages.text)
        conversation = as_messages(messages)
        return conversation, self._protocol.prompt_ids(conversation, tools, thinking=thinking)

    def _run(self, request: Request, *, drafts: bool) -> Iterator[Event]:
        """The events of an opened request, for a thread."""
        with self._watched(request) as answering, closing(self._begin(request, drafts)) as feed:
            while not answering.over:
                yield from self._taken(answering, feed, feed.get())
            yield from answering.finish()

    async def _arun(
        self, opened: Callable[[], Request], *, drafts: bool
    ) -> AsyncGenerator[Event, None]:
        """The events of a request, for an event loop; rendering its prompt is off the loop too."""
        request = await asyncio.to_thread(opened)
        with self._watched(request) as answering, closing(self._begin(request, drafts)) as feed:
            while not answering.over:
                for event in self._taken(answering, feed, await feed.aget()):
                    yield event
            for event in answering.finish():
                yield event

    def _taken(self, answering: Answering, feed: Feed, item: Draft | CanvasResult) -> list[Event]:
        """The events an item makes. The next canvas is begun before they are read."""
        events = answering.take(item)
        if isinstance(item, CanvasResult):
            if not answering.over:
                feed.commit(answering.committed)
            for event in events:
                if isinstance(event, CanvasCommitted):
                    self._plugins.on_canvas(event)
        return events

    @contextmanager
    def _watched(self, request: Request) -> Iterator[Answering]:
        """Sees to it that observers learn how the request ended."""
        answering = self._new_answering(request)
        error: BaseException | None = None
        try:
            yield answering
        except BaseException as raised:
            error = None if answering.reply else raised
            raise
        finally:
            self._plugins.request_finished(
                RequestRecord(
                    self.info.model,
                    request.seed,
                    len(request.prompt_ids),
                    answering.reply,
                    error,
                )
            )

    def _new_answering(self, request: Request) -> Answering:
        settings = request.settings
        parser = self._protocol.new_parser(
            request.tools,
            seed=request.seed,
            position=len(request.prompt_ids),
            thinking=settings.thinking,
            prompt=request.prompt_ids,
        )
        budget = None
        if settings.thinking_budget is not None:
            budget = ThoughtBudget(settings.thinking_budget, self._protocol.end_of_thought_ids())
        answer = Answer(
            parser, settings.stop, self._defaults.stop_token_ids, request.max_tokens, budget
        )
        return Answering(request, answer, self.info.model)


def open_engine(
    model: str | Path = "tiny",
    *,
    engine: str = "auto",
    quantization: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kernels: str = "auto",
    **options: Any,
) -> Engine:
    """An engine for a model: `"tiny"` (built in), a folder, or a hub id.

    The same arguments give the same live engine, so weights are loaded once in a process;
    it lives until it has been closed as often as it was opened. Copies of an engine are the
    engine itself, and pickle stores these arguments.
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

    def opener() -> Engine:
        made: Engine = factory(model, plugins=plugins, **chosen)
        made._recipe = (partial(open_engine, model, engine=engine, **chosen), ())
        return made

    key = (engine, str(model), *sorted((name, repr(value)) for name, value in chosen.items()))
    opened: Engine = registered_engine(key, opener)
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


async def _last_reply(events: AsyncGenerator[Event, None]) -> Reply:
    last: Event | None = None
    async with aclosing(events):
        async for event in events:
            last = event
    return _reply_of(iter([last] if last is not None else []))


def _reply_of(events: Iterator[Event]) -> Reply:
    (last,) = deque(events, maxlen=1)  # every request that raises nothing ends with its reply
    if not isinstance(last, Finished):
        raise GenerationError(f"The request ended with {last!r} instead of a reply.")
    return last.reply
