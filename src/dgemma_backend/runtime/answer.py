"""Committed ids -> the events of an answer, cut exactly where it ends."""

from collections.abc import Sequence
from typing import Protocol

from dgemma_backend.events import (
    InvalidToolCallDone,
    ParsedEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from dgemma_backend.messages import FinishReason, InvalidToolCall, ToolCall
from dgemma_backend.runtime.stop_strings import StopStrings


class Parser(Protocol):
    """What a chat protocol's parser must offer."""

    reasoning_tokens: int

    def feed(self, ids: Sequence[int]) -> list[ParsedEvent]:
        """Committed ids -> the events they complete."""

    def finish(self) -> list[ParsedEvent]:
        """What was held back."""


class Answer:
    """An answer as it grows, canvas by canvas.

    It ends at a stop id, at a stop string (looked for in the answer's text, not in thoughts or
    calls) or with its `max_tokens`-th token, whichever comes first. The stop id counts as a token.
    """

    def __init__(
        self, parser: Parser, stops: tuple[str, ...], stop_ids: Sequence[int], max_tokens: int
    ) -> None:
        self.tokens = 0
        self.ended: FinishReason | None = None
        self.text = ""
        self.reasoning = ""
        self.calls: list[ToolCall] = []
        self.invalid_calls: list[InvalidToolCall] = []
        self._parser = parser
        self._stops = StopStrings(stops)
        self._stop_ids = frozenset(stop_ids)
        self._max_tokens = max_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Tokens spent on thoughts so far."""
        return self._parser.reasoning_tokens

    @property
    def finish_reason(self) -> FinishReason:
        """Why the answer ended; valid calls turn `stop` into `tool_calls`."""
        return "tool_calls" if self.calls and self.ended != "length" else self.ended or "length"

    def take(self, canvas: Sequence[int]) -> tuple[list[int], list[ParsedEvent]]:
        """A committed canvas -> the ids of it that count, and the events they complete."""
        kept: list[int] = []
        events: list[ParsedEvent] = []
        for token in canvas:
            kept.append(token)
            events += self._filtered(self._parser.feed((token,)))
            if token in self._stop_ids or self._stops.found is not None:
                self.ended = "stop"
            elif self.tokens + len(kept) >= self._max_tokens:
                self.ended = "length"
            if self.ended is not None:
                break
        self.tokens += len(kept)
        return kept, self._recorded(events)

    def finish(self) -> list[ParsedEvent]:
        """The events that were held back; nothing more is coming."""
        events = self._filtered(self._parser.finish())
        if rest := self._stops.finish():
            events.append(TextDelta(rest))
        return self._recorded(events)

    def _filtered(self, events: list[ParsedEvent]) -> list[ParsedEvent]:
        passed: list[ParsedEvent] = []
        for event in events:
            if isinstance(event, TextDelta):
                text = self._stops.feed(event.text)
                passed += [TextDelta(text)] if text else []
            else:
                if held := self._stops.finish():  # no stop string reaches across a call
                    passed.append(TextDelta(held))
                passed.append(event)
        return passed

    def _recorded(self, events: list[ParsedEvent]) -> list[ParsedEvent]:
        joined: list[ParsedEvent] = []
        for event in events:
            last = joined[-1] if joined else None
            if isinstance(event, TextDelta):
                self.text += event.text
                if isinstance(last, TextDelta):
                    joined[-1] = TextDelta(last.text + event.text)
                    continue
            elif isinstance(event, ReasoningDelta):
                self.reasoning += event.text
                if isinstance(last, ReasoningDelta):
                    joined[-1] = ReasoningDelta(last.text + event.text)
                    continue
            elif isinstance(event, ToolCallDone):
                self.calls.append(event.call)
            elif isinstance(event, InvalidToolCallDone):
                self.invalid_calls.append(event.call)
            joined.append(event)
        return joined
