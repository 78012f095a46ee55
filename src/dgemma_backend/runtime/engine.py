"""The engine as its users see it: a conversation and settings in, the events of a reply out."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Self

from dgemma_backend.constraint.template import FixedTokens, Hole
from dgemma_backend.decisions import Choices, Decision, answers_of
from dgemma_backend.errors import GenerationError, SettingError
from dgemma_backend.events import Event, Finished
from dgemma_backend.infilling import Infill, TemplatePart, checked_template, edit_template, filled
from dgemma_backend.messages import Reply, ResponseFormat, Tool, ToolChoice
from dgemma_backend.runtime.deciding import (
    MOST_CANVASES,
    Question,
    adecided,
    decided,
    decided_in_order,
    reading_settings,
)
from dgemma_backend.runtime.feed import Feed
from dgemma_backend.runtime.records import EngineInfo, RequestRecord
from dgemma_backend.runtime.registry import release
from dgemma_backend.runtime.request import Request
from dgemma_backend.runtime.running import Conversation, RequestRunner, Settings, as_settings

__all__ = ["Conversation", "Engine", "EngineInfo", "RequestRecord", "Settings"]


class Engine(RequestRunner):
    """Answers conversations. Safe to share between threads and event loops."""

    _recipe: tuple[Any, ...] | None = None

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

    def infill(
        self,
        messages: Conversation,
        template: Sequence[TemplatePart],
        *,
        settings: Settings = None,
    ) -> Infill:
        """Write the holes of a template; its fixed texts stand in the answer word for word.

        `template` is made of strings and `Hole(max_tokens=..., regex=..., choices=...)`. The whole
        answer is denoised at once, so a hole is written with what follows it in view. Raises as
        `generate` does, and `ConstraintError` for holes that nothing can fill.
        """
        parts = checked_template(template)
        return filled(parts, _reply_of(self._run(self._infilling(messages, parts, settings))))

    async def ainfill(
        self,
        messages: Conversation,
        template: Sequence[TemplatePart],
        *,
        settings: Settings = None,
    ) -> Infill:
        """`infill` that leaves the event loop free."""
        parts = checked_template(template)
        opened = partial(self._infilling, messages, parts, settings)
        return filled(parts, await _last_reply(self._arun(opened)))

    def edit(
        self,
        text: str,
        span: tuple[int, int],
        *,
        instruction: str = "Write the text again, and one part of it better.",
        max_tokens: int | None = None,
        settings: Settings = None,
    ) -> Infill:
        """Write the characters from `span[0]` up to `span[1]` anew; all others stay as they are.

        The new part has at most `max_tokens`, by default twice as many as the old one and 16.
        """
        edit_template(text, span, Hole(max_tokens=1))  # refuses what is no span of a text
        old = len(self.token_ids(text[slice(*span)]))
        most = 2 * old + 16 if max_tokens is None else max_tokens
        hole = Hole(max_tokens=most, min_tokens=1)
        return self.infill(
            f"{instruction}\n\n{text}", edit_template(text, span, hole), settings=settings
        )

    def decide(
        self,
        messages: Conversation,
        choices: Choices,
        *,
        canvases: int = 1,
        settings: Settings = None,
    ) -> Decision:
        """How likely each choice is as the answer, compared with the others, from one pass.

        `choices` are strings, `YES_NO`, or a `Score`. With `canvases` the mean of so many reads,
        each from other noise. What the numbers mean, and what not, is said in
        `dgemma_backend.decisions`. Of settings, `seed`, `timeout`, `isolate` and `cache_salt`
        apply, and others are refused.
        """
        question = self._question(choices, canvases)
        request = self._reading(messages, question, settings)
        return decided(request, question, self._begin(request, False), canvases)

    async def adecide(
        self,
        messages: Conversation,
        choices: Choices,
        *,
        canvases: int = 1,
        settings: Settings = None,
    ) -> Decision:
        """`decide` that leaves the event loop free."""
        question = self._question(choices, canvases)
        request = await asyncio.to_thread(self._reading, messages, question, settings)
        return await adecided(request, question, self._begin(request, False), canvases)

    def decide_all(
        self,
        conversations: Iterable[Conversation],
        choices: Choices,
        *,
        canvases: int = 1,
        settings: Settings = None,
    ) -> Iterator[Decision]:
        """`decide` for many conversations, in their order; they share passes and prefixes."""
        question = self._question(choices, canvases)
        if isinstance(conversations, str):
            raise SettingError(
                f"decide_all takes many conversations, got one text, {conversations!r:.60}. Use "
                "decide, or put it into a list."
            )

        def begun() -> Iterator[tuple[Request, Feed]]:
            for messages in conversations:
                request = self._reading(messages, question, settings)
                yield request, self._begin(request, False)

        return decided_in_order(begun(), question, canvases)

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

    def _infilling(
        self, messages: Conversation, parts: Sequence[TemplatePart], settings: Settings
    ) -> Request:
        encode = self._protocol.tokenizer.encode_text
        fixed = tuple(
            part if isinstance(part, Hole) else FixedTokens(tuple(encode(part))) for part in parts
        )
        chosen = as_settings(settings)
        if chosen.max_tokens is None:
            most = sum(p.max_tokens if isinstance(p, Hole) else len(p.ids) for p in fixed)
            chosen = replace(chosen, max_tokens=most + 1)
        return self._open(messages, (), None, None, chosen, template=fixed)

    def _question(self, choices: Choices, canvases: int) -> Question:
        if not isinstance(canvases, int) or not 1 <= canvases <= MOST_CANVASES:
            raise SettingError(f"canvases={canvases!r} must be from 1 to {MOST_CANVASES}")
        return Question.of(answers_of(choices), self._protocol, self.info.canvas_length)

    def _reading(self, messages: Conversation, question: Question, settings: Settings) -> Request:
        chosen = reading_settings(as_settings(settings))
        return self._open(messages, (), None, None, chosen, sequences=question.sequences)

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
