"""What a job tells its reader, whether that is a thread or a task of an event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from dgemma_backend.events import Draft


@dataclass(frozen=True)
class CanvasResult:
    """A settled canvas before the cut: all of its ids, and how it got there.

    `steps` includes those of canvases thrown away for this one (`rerolled`). `cached_tokens` of
    the request's prompt needed no encoding, the rest took `prefill_seconds`. `scores` are the log
    probabilities of the request's `sequences`, for one that only reads.
    """

    number: int
    token_ids: list[int]
    steps: int
    converged: bool
    rerolled: int = 0
    prefill_seconds: float = 0.0
    cached_tokens: int = 0
    scores: tuple[float, ...] = ()


Item = Draft | CanvasResult | BaseException


class Outbox:
    """A queue from the scheduler's thread to one reader; putting never waits."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._guard = threading.Lock()
        self._wake: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Leave an item and wake the reader."""
        with self._guard:
            self._items.append(item)
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def get(self) -> Item:
        """The next item; blocks the thread until there is one."""
        arrived = threading.Event()
        while (item := self._take(arrived.set)) is None:
            arrived.wait()
            arrived.clear()
        return item

    async def aget(self) -> Item:
        """The next item; the event loop goes on meanwhile, and no thread waits for it."""
        loop = asyncio.get_running_loop()
        while True:
            arrived = loop.create_future()
            item = self._take(partial(_tell, loop, arrived))
            if item is not None:
                return item
            await arrived

    def _take(self, wake: Callable[[], object]) -> Item | None:
        with self._guard:
            self._wake = None if self._items else wake
            return self._items.popleft() if self._items else None


def _tell(loop: asyncio.AbstractEventLoop, arrived: "asyncio.Future[None]") -> None:
    def settle() -> None:
        if not arrived.done():  # the reader may have been cancelled
            arrived.set_result(None)

    with suppress(RuntimeError):  # the loop may be closed by now: nobody reads any more
        loop.call_soon_threadsafe(settle)
