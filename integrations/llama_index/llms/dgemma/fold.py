"""Our events -> LlamaIndex responses. Every endpoint folds the same events with this."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Literal

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

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

Granularity = Literal["block", "sentence", "word"]

UNREADABLE = "(its arguments could not be read)"
"""Added to the name of a call nobody should run: agents answer it like an unknown tool."""

_PIECES = {
    "sentence": re.compile(r".+?[.!?]+\s+|.+", re.DOTALL),
    "word": re.compile(r"\s*\S+\s*|\s+"),
}
_log = logging.getLogger(__name__)


class Fold:
    """Gathers the events of one answer.

    `take` gives the responses that an event completes: one for each settled canvas, or for each
    piece of it that `granularity` asks for. Messages are cumulative and made anew each time.
    """

    def __init__(self, granularity: Granularity = "block") -> None:
        self._granularity = granularity
        self._text = ""
        self._thinking = ""
        self._calls: list[ToolCallBlock] = []
        self._new_text = ""
        self._new_thinking = ""
        self._new_calls = False

    def take(self, event: Event) -> Iterator[ChatResponse]:
        """The responses that `event` completes."""
        if isinstance(event, TextDelta):
            self._new_text += event.text
        elif isinstance(event, ReasoningDelta):
            self._new_thinking += event.text
        elif isinstance(event, ToolCallDone):
            call = event.call
            self._add_call(call.id, call.name, dict(call.arguments))
        elif isinstance(event, InvalidToolCallDone):
            self._add_call(event.call.id, event.call.name or "unknown", event.call.raw)
        elif isinstance(event, CanvasCommitted):
            if self._new_text or self._new_thinking or self._new_calls:
                yield from self._responses()
        elif isinstance(event, Finished):
            yield from self._responses(event.reply)

    def _add_call(self, call_id: str, name: str, arguments: dict[str, Any] | str) -> None:
        self._calls.append(
            ToolCallBlock(tool_call_id=call_id, tool_name=name, tool_kwargs=arguments)
        )
        self._new_calls = True

    def _responses(self, reply: Reply | None = None) -> Iterator[ChatResponse]:
        thought, self._new_thinking = self._new_thinking, ""
        text, self._new_text = self._new_text, ""
        self._new_calls = False
        self._thinking += thought
        more: dict[str, Any] = {"thinking_delta": thought} if thought else {}
        *early, last = self._pieces(text)
        for piece in early:
            self._text += piece
            yield ChatResponse(
                message=self._message((), None), delta=piece, additional_kwargs=dict(more)
            )
            more = {}
        self._text += last
        if reply is not None:
            more |= _usage(reply)
        yield ChatResponse(
            message=self._message(self._calls, reply),
            delta=last,
            raw=None if reply is None else _raw(reply),
            additional_kwargs=more,
        )

    def _pieces(self, text: str) -> list[str]:
        if self._granularity == "block":
            return [text]
        return _PIECES[self._granularity].findall(text) or [""]

    def _message(self, calls: Any, reply: Reply | None) -> ChatMessage:
        tokens = None if reply is None else reply.usage.reasoning_tokens
        thoughts = [ThinkingBlock(content=self._thinking, num_tokens=tokens)]
        fresh = [call.model_copy(deep=True) for call in calls]
        return ChatMessage(
            role=MessageRole.ASSISTANT,
            blocks=[*(thoughts if self._thinking else ()), TextBlock(text=self._text), *fresh],
            # parts of LlamaIndex look for calls here only
            additional_kwargs={"tool_calls": [_legacy(call) for call in fresh]} if fresh else {},
        )


def whole(response: ChatResponse) -> ChatResponse:
    """The last response of a stream as the answer of a call that does not stream."""
    more = {
        name: value
        for name, value in response.additional_kwargs.items()
        if name != "thinking_delta"
    }
    return response.model_copy(update={"delta": None, "additional_kwargs": more})


def completion(response: ChatResponse) -> CompletionResponse:
    """A chat response as one of the completion endpoints."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


def _legacy(call: ToolCallBlock) -> dict[str, Any]:
    arguments = call.tool_kwargs
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": call.tool_name, "arguments": arguments}
    return {"id": call.tool_call_id, "type": "function", "function": function}


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
        "total_tokens": reply.usage.total_tokens,
    }


def _raw(reply: Reply) -> dict[str, Any]:
    """What is known of an answer beside its message, as plain data."""
    usage = reply.usage
    if reply.cut_in_thought:
        _log.warning(
            "The answer ran out of tokens in the middle of its thought (%d of them), so it has no "
            "text. Raise max_tokens, or end the thought earlier with thinking_budget.",
            usage.completion_tokens,
        )
    raw: dict[str, Any] = {
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "cut_in_thought": reply.cut_in_thought,
        "usage": {
            **_usage(reply),
            "reasoning_tokens": usage.reasoning_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "seed": reply.seed,
        "canvases": usage.canvases,
        "denoising_steps": usage.denoising_steps,
        "tokens_per_forward": usage.tokens_per_forward,
        "prefill_seconds": usage.prefill_seconds,
        "decode_seconds": usage.decode_seconds,
        "first_text_seconds": usage.first_text_seconds,
    }
    if reply.invalid_tool_calls:
        raw["invalid_tool_calls"] = {call.id: call.error for call in reply.invalid_tool_calls}
    return raw
