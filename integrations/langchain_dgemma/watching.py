"""Those who watch an answer come about: drafts of the canvas, and signs of life.

Neither is part of the answer. A draft is shown as the model wrote it: nothing that redacts or
checks answers has seen it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.callbacks.manager import ahandle_event, handle_event

from dgemma_backend.events import Draft, Event

DRAFT = "dgemma_draft"
PROGRESS = "dgemma_progress"


def draft_data(draft: Draft) -> dict[str, Any]:
    """A draft as plain data; one with the same `block` replaces those before it."""
    return {
        "block": draft.canvas,
        "step": draft.step,
        "of": draft.max_steps,
        "text": draft.text,
        "accepted": draft.accepted,
        "mean_entropy": draft.mean_entropy,
    }


class DraftGate:
    """Lets events pass, and of the drafts so many a second and the last one of every canvas.

    `on_draft` gets every draft. Without `events` no draft passes.
    """

    def __init__(
        self,
        on_draft: Callable[[Draft], object] | None,
        *,
        events: bool,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = events or on_draft is not None
        self._on_draft = on_draft
        self._events = events
        self._interval = 1.0 / per_second
        self._clock = clock
        self._shown = float("-inf")
        self._held: Draft | None = None

    def take(self, event: Event) -> Iterator[Event]:
        """What passes now that `event` came."""
        if not isinstance(event, Draft):
            if self._held is not None:  # its canvas has settled
                held, self._held = self._held, None
                yield held
            yield event
            return
        if self._on_draft is not None:
            self._on_draft(event)
        if not self._events:
            return
        now = self._clock()
        if now - self._shown < self._interval:
            self._held = event
            return
        self._held, self._shown = None, now
        yield event


def tell(run: CallbackManagerForLLMRun | None, name: str, data: dict[str, Any]) -> None:
    """A custom event of the run, or of the chain or graph around a stream; of neither: nothing."""
    if run is not None:
        handle_event(
            run.handlers, "on_custom_event", "ignore_custom_event", name, data, **_about(run)
        )
        return
    with suppress(RuntimeError):  # streamed by itself: LangChain has nobody to tell
        dispatch_custom_event(name, data)


async def atell(run: AsyncCallbackManagerForLLMRun | None, name: str, data: dict[str, Any]) -> None:
    """`tell` for an event loop."""
    if run is not None:
        await ahandle_event(
            run.handlers, "on_custom_event", "ignore_custom_event", name, data, **_about(run)
        )
        return
    with suppress(RuntimeError):
        await adispatch_custom_event(name, data)


def _about(run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun) -> dict[str, Any]:
    return {"run_id": run.run_id, "tags": run.tags, "metadata": run.metadata}


_END = object()


async def beating(
    events: AsyncIterator[Event], seconds: float | None
) -> AsyncGenerator[Event | float, None]:
    """`events`, and whenever `seconds` have passed without one, the seconds since the last."""
    while True:
        began = time.monotonic()
        coming: asyncio.Future[Any] = asyncio.ensure_future(anext(events, _END))
        try:
            while not (await asyncio.wait({coming}, timeout=seconds))[0]:
                yield time.monotonic() - began
            event = coming.result()
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait({coming})
        if event is _END:
            return
        yield event
