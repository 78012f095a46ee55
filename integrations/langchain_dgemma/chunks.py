"""Our events -> LangChain's message chunks.

Only what is final becomes a chunk, one kind of content in each, so that chunks can simply be added
up. Text, thoughts and calls are numbered together, in the order they were generated: blocks of
different kinds with the same number would be merged into one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from dgemma_backend import Reply
from dgemma_backend.events import (
    CanvasCommitted,
    Event,
    Finished,
    InvalidToolCallDone,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)

PROVIDER = "dgemma"


def unread_call(raw: str) -> str:
    """The text of a call that could not be read.

    Its opener keeps LangChain from reading it as JSON, which would make it a valid call.
    """
    return f"<|tool_call>{raw}"


def usage_of(reply: Reply) -> UsageMetadata:
    """Tokens in and out; those out are committed ones, thoughts and control tokens included."""
    usage = reply.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def what_it_cost(reply: Reply) -> dict[str, Any]:
    """What an answer cost, and what to know of it, as plain data; times are in seconds."""
    usage = reply.usage
    told: dict[str, Any] = {
        "seed": reply.seed,
        "canvases": usage.canvases,
        "rerolled": usage.rerolled,
        "denoising_steps": usage.denoising_steps,
        "tokens_per_forward": usage.tokens_per_forward,
        "prefill_seconds": usage.prefill_seconds,
        "decode_seconds": usage.decode_seconds,
        "first_text_seconds": usage.first_text_seconds,
    }
    if reply.cut_in_thought:
        told["cut_in_thought"] = True
    if reply.invalid_tool_calls:
        told["invalid_tool_calls"] = {call.id: call.error for call in reply.invalid_tool_calls}
    return told


class ChunkMaker:
    """Makes the chunks of one answer; with `blocks`, their content is a list of content blocks."""

    def __init__(self, model_name: str, *, blocks: bool) -> None:
        self._model_name: str | None = model_name  # told once, in the first chunk
        self._blocks = blocks
        self._kind: type[Event] | None = None
        self._index = -1
        self._words: list[str] = []

    def chunks(self, event: Event) -> Iterator[ChatGenerationChunk]:
        """The chunks that `event` completes."""
        if isinstance(event, TextDelta | ReasoningDelta):
            if type(event) is not self._kind:
                yield from self._said()
                self._begin(type(event))
            self._words.append(event.text)
            return
        yield from self._said()
        if isinstance(event, ToolCallDone):
            call, arguments = event.call, json.dumps(dict(event.call.arguments), ensure_ascii=False)
            yield self._call(call.id, call.name, arguments, {"type": "tool_call_chunk"})
        elif isinstance(event, InvalidToolCallDone):
            broken, raw = event.call, unread_call(event.call.raw)
            block = {"type": "invalid_tool_call", "error": broken.error}
            yield self._call(broken.id, broken.name, raw, block)
        elif isinstance(event, Finished):
            yield self._last(event.reply)
        else:
            assert isinstance(event, CanvasCommitted)

    def _begin(self, kind: type[Event]) -> None:
        self._kind = kind
        self._index += 1

    def _said(self) -> Iterator[ChatGenerationChunk]:
        """The words collected so far, as one chunk."""
        if not self._words:
            return
        words, self._words = "".join(self._words), []
        if self._kind is TextDelta:
            block = {"type": "text", "text": words}
            yield self._chunk(words, block)
        else:
            block = {"type": "reasoning", "reasoning": words}
            extra = {} if self._blocks else {"reasoning_content": words}
            yield self._chunk("", block, additional_kwargs=extra)

    def _call(
        self, call_id: str, name: str | None, arguments: str, block: dict[str, Any]
    ) -> ChatGenerationChunk:
        self._begin(ToolCallDone)
        told = {"id": call_id, "name": name, "args": arguments}
        call = tool_call_chunk(id=call_id, name=name, args=arguments, index=self._index)
        return self._chunk("", {**block, **told}, tool_call_chunks=[call])

    def empty(self) -> ChatGenerationChunk:
        """A chunk that adds nothing to the message: a sign of life."""
        return ChatGenerationChunk(message=AIMessageChunk(content=[] if self._blocks else ""))

    def _last(self, reply: Reply) -> ChatGenerationChunk:
        metadata = {"finish_reason": reply.finish_reason, PROVIDER: what_it_cost(reply)}
        return self._chunk(
            "", None, metadata, chunk_position="last", usage_metadata=usage_of(reply)
        )

    def _chunk(
        self,
        text: str,
        block: dict[str, Any] | None,
        metadata: dict[str, Any] | None = None,
        **message: Any,
    ) -> ChatGenerationChunk:
        metadata = {"model_provider": PROVIDER, **(metadata or {})}
        if self._model_name is not None:
            metadata["model_name"], self._model_name = self._model_name, None
        content: Any = text
        if self._blocks:
            metadata["output_version"] = "v1"
            content = [] if block is None else [{**block, "index": self._index}]
        chunk = AIMessageChunk(content=content, response_metadata=metadata, **message)
        return ChatGenerationChunk(message=chunk)
