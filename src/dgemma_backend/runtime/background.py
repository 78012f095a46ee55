"""An iterator that computes, read from an event loop without blocking it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress

from dgemma_backend.events import Event

_AHEAD = 16  # events the worker may be ahead of a slow reader


async def stream_in_background(open_events: Callable[[], Iterator[Event]]) -> AsyncIterator[Event]:
    """Run `open_events()` in a thread and hand on its events, errors included.

    The thread waits for a slow reader, and closes the iterator when the reader leaves.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    left = threading.Event()

    def put(item: Event | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop may be closed by now: nobody reads any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            with closing(open_events()) as events:  # type: ignore[type-var]
                for event in events:
                    room.acquire()
                    if left.is_set():
                        return
                    put(event)
            put(None)
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            put(error)

    thread = threading.Thread(target=work, name="dgemma-stream", daemon=True)
    thread.start()
    try:
        while (item := await queue.get()) is not None:
            room.release()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        room.release()
