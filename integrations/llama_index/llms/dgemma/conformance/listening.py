"""The events that LlamaIndex sends while something is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler


class Listener(BaseEventHandler):
    """Keeps the names of events that begin with one of `beginnings`, in order."""

    beginnings: tuple[str, ...]
    seen: list[str]

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """As `BaseEventHandler.handle`."""
        name = type(event).__name__
        if name.startswith(self.beginnings):
            self.seen.append(name)


@contextmanager
def events(*beginnings: str) -> Iterator[list[str]]:
    """The names of the events whose names begin so that are sent meanwhile, in order."""
    root = get_dispatcher()
    listener = Listener(beginnings=beginnings, seen=[])
    root.add_event_handler(listener)
    try:
        yield listener.seen
    finally:
        others = [each for each in root.event_handlers if each is not listener]
        root.event_handlers[:] = others  # `remove` would take one that is equal
