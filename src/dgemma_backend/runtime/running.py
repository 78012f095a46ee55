"""How every kind of engine runs a request: opened, begun, its canvases taken, its end told."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from dgemma_backend.chat.parser import AnswerParser
from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.config import DecodingDefaults
from dgemma_backend.errors import EngineClosedError, ResponseFormatError, SettingError
from dgemma_backend.events import CanvasCommitted, Draft, Event
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
from dgemma_backend.runtime.answering import Answering, Check
from dgemma_backend.runtime.feed import Feed
from dgemma_backend.runtime.outbox import CanvasResult
from dgemma_backend.runtime.records import EngineInfo, RequestRecord
from dgemma_backend.runtime.request import Request, as_messages, open_request, usable_tools
from dgemma_backend.settings import GenerationSettings

Conversation = str | UnsafeRawPrompt | Sequence[Message]
Settings = GenerationSettings | Mapping[str, Any] | None

MOST_ATTEMPTS = 3
"""How often an answer is written that must pass a check which decoding cannot guarantee."""


class RequestRunner(ABC):
    """Rendering, cutting, parsing and accounting, the same for every kind of engine.

    A kind of engine says how canvases come about: `_begin`.
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

    @abstractmethod
    def _constraint(self, request: Request) -> Any:
        """What `_begin` needs to keep to a request's tool choice and response format.

        Raises `SettingError` for what cannot be guaranteed.
        """

    def _check(self, request: Request) -> Check | None:
        """What a whole reply must pass besides, where the constraint leaves something out."""
        del request
        return None

    @abstractmethod
    def _begin(self, request: Request, drafts: bool) -> Feed:
        """Start on a request. Raises `QueueFullError`, `EngineClosedError`; never waits."""

    @abstractmethod
    def _shut(self) -> None:
        """Free what the engine holds; requests under way end with `EngineClosedError`."""

    def _open(
        self,
        messages: Conversation,
        tools: Sequence[Tool],
        tool_choice: ToolChoice | None,
        response_format: ResponseFormat | None,
        settings: Settings,
        **reads: Any,
    ) -> Request:
        """A request ready to begin; `reads` are its `template` or `sequences`."""
        if self.closed:
            raise EngineClosedError(
                f"The engine of {self.info.model!r} was closed. open_engine(...) gives a new one."
            )
        settings = as_settings(settings)
        self._plugins.sampler(settings.sampler)  # unknown names are refused at the door
        self._plugins.stop_rule(settings.stop_rule)
        declared = usable_tools(tools, tool_choice)
        if not isinstance(response_format, ResponseFormat | None):
            raise SettingError(
                f"response_format={response_format!r:.80} must be a ResponseFormat: "
                "ResponseFormat.json_schema({...})."
            )
        if reads.get("template"):
            refuse_for_template(settings)
        conversation, prompt = self._rendered(messages, declared, settings.thinking)
        canvas, context = self.info.canvas_length, self.info.context_length
        request = open_request(prompt, declared, settings, self._defaults, canvas, context)
        request = replace(
            request,
            messages=conversation,
            tool_choice=tool_choice,
            response_format=response_format,
            **reads,
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

    def _run(self, request: Request, *, drafts: bool = False) -> Iterator[Event]:
        """The events of an opened request, for a thread."""
        with self._watched(request) as attempts:
            for answering in attempts:
                with closing(self._begin(answering.request, drafts)) as feed:
                    while not answering.over:
                        yield from self._taken(answering, feed, feed.get())
                yield from answering.finish()

    async def _arun(
        self, opened: Callable[[], Request], *, drafts: bool = False
    ) -> AsyncGenerator[Event, None]:
        """The events of a request, for an event loop; rendering its prompt is off the loop too."""
        request = await asyncio.to_thread(opened)
        with self._watched(request) as attempts:
            for answering in attempts:
                with closing(self._begin(answering.request, drafts)) as feed:
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
    def _watched(self, request: Request) -> Iterator[Iterator[Answering]]:
        """Attempts at a request; sees to it that observers learn how it ended."""
        replies: list[Reply] = []
        error: BaseException | None = None
        try:
            yield self._attempts(request, replies)
        except BaseException as raised:
            error = None if replies else raised
            raise
        finally:
            record = RequestRecord(
                self.info.model,
                request.seed,
                len(request.prompt_ids),
                replies[0] if replies else None,
                error,
            )
            self._plugins.request_finished(record)

    def _attempts(self, request: Request, replies: list[Reply]) -> Iterator[Answering]:
        """One attempt, and another wherever a reply fails its check. Raises after the last."""
        check, thrown_away = self._check(request), list[CanvasResult]()
        for number in range(MOST_ATTEMPTS):
            answering = self._new_answering(request.again(number), check, thrown_away)
            yield answering
            if answering.reply is not None:
                replies.append(answering.reply)
                return
            thrown_away += answering.results
        raise ResponseFormatError(
            f"{MOST_ATTEMPTS} answers in a row failed the check of their format, the last with: "
            f"{'; '.join(answering.faults[:3])}. Simplify the schema, or say in the prompt what "
            "is wanted."
        )

    def _new_parser(self, request: Request) -> AnswerParser:
        return self._protocol.new_parser(
            request.tools,
            seed=request.seed,
            position=len(request.prompt_ids),
            thinking=request.settings.thinking,
            prompt=request.prompt_ids,
        )

    def _new_answering(
        self, request: Request, check: Check | None, thrown_away: list[CanvasResult]
    ) -> Answering:
        settings = request.settings
        budget = None
        if settings.thinking_budget is not None:
            header = len(self._protocol.empty_thought_ids()) - 1  # is no thought yet
            budget = ThoughtBudget(
                max(settings.thinking_budget, header), self._protocol.end_of_thought_ids()
            )
        answer = Answer(
            self._new_parser(request),
            settings.stop,
            self._defaults.stop_token_ids,
            request.max_tokens,
            budget,
        )
        return Answering(request, answer, self.info.model, check, thrown_away)


def refuse_for_template(settings: GenerationSettings) -> None:
    """Raise `SettingError` for what goes ill with texts that have holes."""
    if settings.stop:
        raise SettingError(
            f"stop={settings.stop!r} could cut a template's fixed text. Leave it out."
        )
    if settings.thinking:
        raise SettingError("thinking=True has no place in a template, which is the whole answer.")


def as_settings(settings: Settings) -> GenerationSettings:
    """Settings from names and values, or as they are. Raises `SettingError`."""
    if isinstance(settings, GenerationSettings):
        return settings
    return GenerationSettings.from_mapping(settings or {})
