"""The models that `llm` is given, and how they answer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, ClassVar

import llm
from llm.parts import StreamEvent
from pydantic import Field

from dgemma_backend.events import (
    Event,
    Finished,
    InvalidToolCallDone,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from llm_dgemma.convert import to_request

if TYPE_CHECKING:
    from dgemma_backend import Engine

PUBLISHED = "google/diffusiongemma-26B-A4B-it"


class DgemmaOptions(llm.Options):
    """What `llm -o NAME VALUE` may choose. Values are checked by the engine."""

    max_tokens: int | None = Field(default=None, description="Tokens of the answer, at most")
    temperature: float | None = Field(
        default=None, description="0: the most probable tokens, 1: the checkpoint's own noise"
    )
    top_k: int | None = Field(default=None, description="Propose from this many tokens")
    top_p: float | None = Field(default=None, description="Propose from this much probability")
    seed: int | None = Field(default=None, description="The same seed gives the same answer")
    stop: str | None = Field(default=None, description="Text that ends the answer")
    max_denoising_steps: int | None = Field(default=None, description="Steps per canvas, at most")
    thinking: bool = Field(default=False, description="Think before answering")
    thinking_budget: int | None = Field(default=None, description="Tokens of thought, at most")
    timeout: float | None = Field(default=None, description="Seconds, at most")
    device: str = Field(default="auto", description="auto, cpu or cuda[:N]")
    quantization: str | None = Field(default=None, description="A registered format such as int4")


ENGINE_OPTIONS = ("device", "quantization")


class _Dgemma:
    """What both models share: the engine is opened at the first answer and kept."""

    can_stream: ClassVar[bool] = True
    supports_tools: ClassVar[bool] = True
    supports_schema: ClassVar[bool] = True

    def __init__(self, model_id: str, model: str) -> None:
        self.model_id = model_id
        self.model = model
        self._engines: dict[tuple[Any, ...], Engine] = {}
        self._lock = threading.Lock()

    def open(self, prompt: llm.Prompt) -> Engine:
        """The engine that a prompt's options ask for. Raises as `open_engine` does."""
        chosen = {name: getattr(prompt.options, name) for name in ENGINE_OPTIONS}
        key = tuple(chosen.values())
        with self._lock:
            if key not in self._engines or self._engines[key].closed:
                from dgemma_backend import open_engine

                self._engines[key] = open_engine(self.model, **chosen)
            return self._engines[key]


class Dgemma(_Dgemma, llm.Model):
    """A DiffusionGemma checkpoint that runs in this process."""

    class Options(DgemmaOptions):
        """As `DgemmaOptions`."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str | StreamEvent]:
        """The answer, canvas by canvas."""
        request = to_request(prompt, ENGINE_OPTIONS)
        events: Iterator[Event] = self.open(prompt).stream(**request)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                yield from _told(event, response)


class AsyncDgemma(_Dgemma, llm.AsyncModel):
    """`Dgemma` for an event loop, which is left free."""

    class Options(DgemmaOptions):
        """As `DgemmaOptions`."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,
    ) -> AsyncGenerator[str | StreamEvent, None]:
        """The answer, canvas by canvas."""
        request = to_request(prompt, ENGINE_OPTIONS)
        engine = await asyncio.to_thread(self.open, prompt)
        events: AsyncIterator[Event] = engine.astream(**request)
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                for told in _told(event, response):
                    yield told


def pairs() -> list[tuple[Dgemma, AsyncDgemma]]:
    """The models to register, sync and async."""
    named = {"dgemma-tiny": "tiny", "dgemma": os.environ.get("DGEMMA_MODEL") or PUBLISHED}
    return [(Dgemma(name, model), AsyncDgemma(name, model)) for name, model in named.items()]


def _told(event: Event, response: Any) -> Iterator[StreamEvent]:
    """An event as `llm` is told of it: in the stream, or in the response."""
    if isinstance(event, TextDelta):
        yield StreamEvent(type="text", chunk=event.text)
    elif isinstance(event, ReasoningDelta):
        yield StreamEvent(type="reasoning", chunk=event.text)
    elif isinstance(event, ToolCallDone):
        call = event.call
        response.add_tool_call(llm.ToolCall(call.name, dict(call.arguments), call.id))
    elif isinstance(event, InvalidToolCallDone):
        raise llm.ModelError(
            f"the model began a call of {event.call.name!r} and did not finish it: "
            f"{event.call.error}. Allow more with -o max_tokens."
        )
    elif isinstance(event, Finished):
        reply = event.reply
        response.set_usage(
            input=reply.usage.prompt_tokens,
            output=reply.usage.completion_tokens,
            details={
                "reasoning_tokens": reply.usage.reasoning_tokens,
                "canvases": reply.usage.canvases,
                "denoising_steps": reply.usage.denoising_steps,
            },
        )
        response.set_resolved_model(reply.model)
        response.response_json = {
            "finish_reason": reply.finish_reason,
            "cut_in_thought": reply.cut_in_thought,
            "seed": reply.seed,
        }
