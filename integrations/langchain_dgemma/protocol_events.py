"""Our events -> those of LangChain's content-block protocol (`stream_events(version="v3")`).

LangChain can make them from message chunks too, but sorts blocks by kind on the way. Here they
keep the order in which they were generated, each ended before the next begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dgemma_backend.events import (
    CanvasCommitted,
    Draft,
    Event,
    Finished,
    InvalidToolCallDone,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from langchain_dgemma.chunks import PROVIDER, unread_call, usage_of, what_it_cost
from langchain_dgemma.watching import draft_data

ProtocolEvent = dict[str, Any]


class ProtocolEventMaker:
    """Makes the events of one answer. Begin with `start`."""

    def __init__(self, model_name: str, message_id: str) -> None:
        self._model_name = model_name
        self._message_id = message_id
        self._index = -1
        self._words: dict[str, str] | None = None  # the open text or reasoning block

    def start(self) -> ProtocolEvent:
        """The event that opens the message."""
        return {
            "event": "message-start",
            "role": "ai",
            "id": self._message_id,
            "metadata": {"provider": PROVIDER, "model": self._model_name},
        }

    def events(self, event: Event) -> Iterator[ProtocolEvent]:
        """The protocol's events for one of ours."""
        if isinstance(event, TextDelta):
            yield from self._said("text", event.text)
        elif isinstance(event, ReasoningDelta):
            yield from self._said("reasoning", event.text)
        elif isinstance(event, Draft):
            yield {"event": "dgemma-draft", **draft_data(event)}
        elif isinstance(event, ToolCallDone):
            call = event.call
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            done = {"type": "tool_call", "id": call.id, "name": call.name}
            yield from self._called(
                call.id, call.name, arguments, {**done, "args": {**call.arguments}}
            )
        elif isinstance(event, InvalidToolCallDone):
            yield from self._invalid(event)
        elif isinstance(event, Finished):
            yield from self._end()
            yield {
                "event": "message-finish",
                "usage": usage_of(event.reply),
                "metadata": {
                    "finish_reason": event.reply.finish_reason,
                    PROVIDER: what_it_cost(event.reply),
                },
            }
        else:
            assert isinstance(event, CanvasCommitted)

    def progress(self, seconds: float) -> ProtocolEvent:
        """A sign of life: nothing has become final for `seconds`."""
        return {"event": "dgemma-progress", "seconds": seconds}

    def _said(self, kind: str, words: str) -> Iterator[ProtocolEvent]:
        if self._words is None or self._words["type"] != kind:
            yield from self._end()
            self._words = {"type": kind, kind: ""}
            yield self._block("start", {**self._words})
        self._words[kind] += words
        delta = {"type": f"{kind}-delta", kind: words}
        yield {"event": "content-block-delta", "index": self._index, "delta": delta}

    def _invalid(self, event: InvalidToolCallDone) -> Iterator[ProtocolEvent]:
        call, raw = event.call, unread_call(event.call.raw)
        done = {"type": "invalid_tool_call", "id": call.id, "name": call.name, "args": raw}
        yield from self._called(call.id, call.name, raw, {**done, "error": call.error})

    def _called(
        self, call_id: str, name: str | None, arguments: str, done: dict[str, Any]
    ) -> Iterator[ProtocolEvent]:
        yield from self._end()
        chunk = {"type": "tool_call_chunk", "id": call_id, "name": name, "args": ""}
        yield self._block("start", chunk)
        delta = {"type": "block-delta", "fields": {**chunk, "args": arguments}}
        yield {"event": "content-block-delta", "index": self._index, "delta": delta}
        yield self._block("finish", done)

    def _end(self) -> Iterator[ProtocolEvent]:
        """The end of the open block, if there is one."""
        if self._words is not None:
            yield self._block("finish", {**self._words})
            self._words = None

    def _block(self, what: str, content: dict[str, Any]) -> ProtocolEvent:
        self._index += what == "start"
        return {"event": f"content-block-{what}", "index": self._index, "content": content}
