"""Committed ids -> the events of an answer, cut exactly where it ends."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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
    cut_in_thought: bool

    @property
    def in_thought(self) -> bool:
        """Whether a thought is open."""

    def feed(self, ids: Sequence[int]) -> list[ParsedEvent]:
        """Committed ids -> the events they complete."""

    def finish(self) -> list[ParsedEvent]:
        """What was held back."""


class ThoughtBudget(NamedTuple):
    """After so many tokens of thought, these ids end it."""

    tokens: int
    end_ids: Sequence[int]


class Answer:
    """An answer as it grows, canvas by canvas.

    It ends at a stop id, at a stop string (looked for in the answer's text, not in thoughts or
    calls) or with its `max_tokens`-th token, whichever comes first. The stop id counts as a token.
    A thought that has used up its budget is ended there, and what follows in its canvas dropped.
    """

    def __init__(
        self,
        parser: Parser,
        stops: tuple[str, ...],
        stop_ids: Sequence[int],
        max_tokens: int,
        budget: ThoughtBudget | None = None,
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
        self._budget = budget

    @property
    def reasoning_tokens(self) -> int:
        """Tokens spent on thoughts so far."""
        return self._parser.reasoning_tokens

    @property
    def cut_in_thought(self) -> bool:
        """Whether the answer ended in the middle of a thought."""
        return self._parser.cut_in_thought

    @property
    def finish_reason(self) -> FinishReason:
        """Why the answer ended; valid calls turn `stop` into `tool_calls`."""
        return "tool_calls" if self.calls and self.ended != "length" else self.ended or "length"

    def take(self, canvas: Sequence[int]) -> tuple[list[int], list[ParsedEvent]]:
        """A settled canvas -> the ids that become final, and the events they complete."""
        kept: list[int] = []
        events: list[ParsedEvent] = []
        for token in canvas:
            kept.append(token)
            events += self._taken(token)
            if self.ended is not None:
                break
            if self._budget is not None and self._over_budget(self._budget):
                for end in self._budget.end_ids:
                    if self.ended is None:
                        kept.append(end)
                        events += self._taken(end)
                self._budget = None
                break
        return kept, self._recorded(events)

    def finish(self) -> list[ParsedEvent]:
        """The events that were held back; nothing more is coming."""
        events = self._filtered(self._parser.finish())
        if rest := self._stops.finish():
            events.append(TextDelta(rest))
        return self._recorded(events)

    def _taken(self, token: int) -> list[ParsedEvent]:
        events = self._filtered(self._parser.feed((token,)))
        self.tokens += 1
        if token in self._stop_ids or self._stops.found is not None:
            self.ended = "stop"
        elif self.tokens >= self._max_tokens:
            self.ended = "length"
        return events

    def _over_budget(self, budget: ThoughtBudget) -> bool:
        return self._parser.in_thought and self._parser.reasoning_tokens >= budget.tokens

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
