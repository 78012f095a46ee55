"""Leaving a request in any way stops its work with the step under way, and leaves nothing."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dgemma_backend import open_engine
from dgemma_backend.errors import CancelledError, DeadlineExceededError
from dgemma_backend.model.cache import KVCache
from dgemma_backend.runtime.job import Job
from dgemma_backend.runtime.scheduler import Limits

QUESTION = "the old river"
STEPS = 10
ENDLESS = {"stop_rule": "never", "max_denoising_steps": STEPS, "max_tokens": 400, "seed": 1}
LIMIT = 30.0


class Watched:
    """An engine whose denoising steps are counted, and whose jobs and caches are known."""

    def __init__(self, engine: Any, patch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.scheduler = engine._worker._scheduler
        self.jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        self.caches: weakref.WeakSet[KVCache] = weakref.WeakSet()
        self.steps: list[float] = []
        self.started = 0.0  # when the last job's request was opened
        self.moments: set[int] = set()  # steps taken of a canvas when it was left
        self.rng = Random(0)
        real_job, real_cache = Job.__post_init__, KVCache.__init__

        def new_job(job: Job) -> None:
            real_job(job)
            self.jobs.add(job)
            self.started = job.request.started

        def new_cache(cache: KVCache, *given: Any) -> None:
            real_cache(cache, *given)
            self.caches.add(cache)

        patch.setattr(Job, "__post_init__", new_job)
        patch.setattr(KVCache, "__init__", new_cache)
        patch.setattr(engine._plugins, "on_step", lambda _: self.steps.append(time.perf_counter()))

    def answer(self) -> tuple[str, int]:
        settings = {"seed": 3, "max_tokens": 12, "max_denoising_steps": 3}
        reply = self.engine.generate(QUESTION, settings=settings)
        return reply.text, reply.usage.denoising_steps

    def wait(self) -> float:
        """Seconds to let a canvas go on; the engine takes a few milliseconds a step."""
        return self.rng.uniform(0, 0.04)

    def begun(self) -> Any:
        """A stream that has given its first canvas; the engine is at the next ones."""
        stream = self.engine.stream(QUESTION, settings=ENDLESS)
        next(stream)
        time.sleep(self.wait())
        return stream

    def check_idle(self) -> None:
        """At most the step under way is taken; then nothing is left of any request."""
        taken = len(self.steps)
        self.moments.add(taken % STEPS)
        wait_until(lambda: not self.scheduler.active)
        assert len(self.steps) <= taken + 1
        wait_until(lambda: not self.jobs and not self.caches)
        assert len(self.steps) <= taken + 1


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def watched(random_folder: Path) -> Iterator[Watched]:
    """Without the garbage collector: what is left goes at once, not some time later."""
    limits = Limits(prefix_bytes=0, active=4)
    with (
        pytest.MonkeyPatch.context() as patch,
        open_engine(random_folder, device="cpu", dtype="float32", limits=limits) as engine,
    ):
        gc.collect()
        gc.disable()
        yield Watched(engine, patch)
        gc.enable()


def close(watched: Watched) -> None:
    watched.begun().close()


def drop(watched: Watched) -> None:
    stream = watched.begun()
    del stream


def drop_in_a_circle(watched: Watched) -> None:
    """Where only the garbage collector finds it."""
    circle: list[Any] = [watched.begun()]
    circle.append(circle)
    del circle
    gc.collect()


def explicitly(watched: Watched) -> None:
    stream = watched.begun()
    (job,) = watched.scheduler.active
    job.request.cancelled.set()
    taken = len(watched.steps)
    with pytest.raises(CancelledError):
        list(stream)
    assert len(watched.steps) <= taken + 1


def deadline(watched: Watched) -> None:
    timeout = 0.05 + watched.wait()
    with pytest.raises(DeadlineExceededError):
        watched.engine.generate(QUESTION, settings={**ENDLESS, "timeout": timeout})
    assert sum(step > watched.started + timeout for step in watched.steps) <= 1


def cancel_a_task(watched: Watched) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(watched.engine.agenerate(QUESTION, settings=ENDLESS))
        await asyncio.sleep(0.02 + watched.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())


def wait_for(watched: Watched) -> None:
    async def waited() -> None:
        answer = watched.engine.agenerate(QUESTION, settings=ENDLESS)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer, 0.02 + watched.wait())

    run(waited())


async def abegun(watched: Watched) -> AsyncGenerator[Any, None]:
    stream: AsyncGenerator[Any, None] = watched.engine.astream(QUESTION, settings=ENDLESS)
    await anext(stream)
    await asyncio.sleep(watched.wait())
    return stream


def aclose(watched: Watched) -> None:
    async def closed() -> None:
        await (await abegun(watched)).aclose()

    run(closed())


def drop_in_its_loop(watched: Watched) -> None:
    async def dropped() -> None:
        stream = await abegun(watched)
        del stream
        await asyncio.sleep(0)  # the loop closes it now
        await asyncio.sleep(0)
        watched.check_idle()

    run(dropped())


def drop_after_its_loop(watched: Watched) -> None:
    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(abegun(watched))
    loop.close()
    time.sleep(watched.wait())
    del stream


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


WAYS = [
    close,
    drop,
    drop_in_a_circle,
    explicitly,
    deadline,
    cancel_a_task,
    wait_for,
    aclose,
    drop_in_its_loop,
    drop_after_its_loop,
]


@pytest.mark.slow
@pytest.mark.parametrize("leave", WAYS)
def test_leaving_takes_one_more_step_at_most_and_leaves_nothing_behind(
    watched: Watched, leave: Callable[[Watched], None]
) -> None:
    wanted = watched.answer()
    watched.moments.clear()
    for _ in range(5):
        leave(watched)
        watched.check_idle()
    assert watched.moments != {0}, "always between two canvases"
    assert watched.answer() == wanted
    watched.check_idle()


def test_a_request_in_line_that_is_given_up_leaves_the_line(watched: Watched) -> None:
    streams = [watched.engine.stream(QUESTION, settings=ENDLESS) for _ in range(4)]
    for stream in streams:
        next(stream)
    waiting = watched.engine._begin(
        watched.engine._open(QUESTION, (), None, None, {"seed": 1}), False
    )
    assert watched.scheduler.waiting == 1
    waiting.close()
    wait_until(lambda: watched.scheduler.waiting == 0)
    del waiting
    for stream in streams:
        stream.close()
    del streams, stream
    watched.check_idle()
