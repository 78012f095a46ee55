"""Settled canvases -> the events of a reply, without waiting for anything.

The engine reads canvases from a thread or from an event loop; what becomes of them is here.
"""

import time
from collections.abc import Callable, Sequence

from dgemma_backend.events import CanvasCommitted, Draft, Event, Finished, ParsedEvent
from dgemma_backend.messages import Reply, Usage
from dgemma_backend.runtime.answer import Answer
from dgemma_backend.runtime.outbox import CanvasResult
from dgemma_backend.runtime.request import Request

Check = Callable[[Reply], list[str]]
"""A whole reply -> what is wrong with it."""


class Answering:
    """A request's reply as it comes about: feed it with `take` until `over`, then `finish`.

    A reply with a `check` says nothing before it has passed. `thrown_away` are the canvases of
    earlier attempts that did not.
    """

    def __init__(
        self,
        request: Request,
        answer: Answer,
        model: str,
        check: Check | None = None,
        thrown_away: Sequence[CanvasResult] = (),
    ) -> None:
        self.reply: Reply | None = None
        self.faults: list[str] = []
        """What the check found; the reply is worth nothing then."""
        self.committed: Sequence[int] = ()
        """What of the last canvas became final: the next canvas goes behind it."""
        self.results: list[CanvasResult] = []
        self._check = check
        self._thrown_away = thrown_away
        self._held: list[Event] = []
        self.request = request
        self._answer = answer
        self._model = model
        self._first_text: float | None = None

    @property
    def over(self) -> bool:
        """Whether the answer has ended."""
        return self._answer.ended is not None

    def take(self, item: Draft | CanvasResult) -> list[Event]:
        """A draft is passed on; a canvas becomes what it says and, last, its commit."""
        if isinstance(item, Draft):
            return [item]
        self.results.append(item)
        kept, events = self._answer.take(item.token_ids)
        self.committed = kept
        commit = CanvasCommitted(item.number, tuple(kept), item.steps, item.converged)
        return self._released([*self._timed(events), commit])

    def finish(self) -> list[Event]:
        """What was held back, and the reply."""
        events = self._timed(self._answer.finish())
        reply = self._whole()
        self.faults = [] if self._check is None else self._check(reply)
        if self.faults:
            return []
        self.reply, self._check = reply, None
        return self._released([*events, Finished(reply)])

    def _released(self, events: list[Event]) -> list[Event]:
        self._held += events
        if self._check is not None:
            return []
        released, self._held = self._held, []
        return released

    def _timed(self, events: list[ParsedEvent]) -> list[ParsedEvent]:
        if events and self._first_text is None:
            self._first_text = time.perf_counter()
        return events

    def _whole(self) -> Reply:
        answer, request, results = self._answer, self.request, self.results
        now = time.perf_counter()
        lost = self._thrown_away
        steps = sum(result.steps for result in (*lost, *results))
        prefill = max((result.prefill_seconds for result in results), default=0.0)
        usage = Usage(
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=answer.tokens,
            cached_tokens=max((result.cached_tokens for result in results), default=0),
            reasoning_tokens=answer.reasoning_tokens,
            canvases=len(lost) + sum(1 + result.rerolled for result in results),
            rerolled=len(lost) + sum(result.rerolled for result in results),
            denoising_steps=steps,
            tokens_per_forward=answer.tokens / max(steps, 1),
            prefill_seconds=prefill,
            decode_seconds=now - request.started - prefill,
            first_text_seconds=(self._first_text or now) - request.started,
        )
        return Reply(
            text=answer.text,
            reasoning=answer.reasoning,
            tool_calls=tuple(answer.calls),
            invalid_tool_calls=tuple(answer.invalid_calls),
            finish_reason=answer.finish_reason,
            usage=usage,
            seed=request.seed,
            model=self._model,
            cut_in_thought=answer.cut_in_thought,
        )
