"""Who gets the device next: every active request advances by one pass in every tick.

The scheduler has no thread and no clock of its own, and knows the model only as `Passes`: a
simulator drives it with a scripted model and planned faults. `worker` gives it a thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from traceback import format_tb
from typing import Protocol

from dgemma_backend.errors import ContextLengthError, GenerationError, QueueFullError
from dgemma_backend.runtime.job import Job


@dataclass(frozen=True)
class Limits:
    """What may be at work and in line at once.

    Attributes:
        active: Requests that take turns.
        cache_bytes: Memory their caches may come to take together; None: what is sensible for
            the device (no limit on CPU).
        prefix_bytes: Memory for encoded prefixes that later requests may continue; 0 keeps none,
            None is what is sensible for the device.
        queued: Requests in line behind them.
        queued_tokens: Prompt tokens of those in line.
    """

    active: int = 16
    cache_bytes: int | None = None
    prefix_bytes: int | None = None
    queued: int = 64
    queued_tokens: int = 262_144


class Passes(Protocol):
    """The model, as far as a scheduler needs it. Each call may raise, and may fail some jobs."""

    def cache_bytes(self, tokens: int) -> int:
        """Memory that the cache of a request of `tokens` positions comes to take."""

    def encode(self, jobs: Sequence[Job]) -> None:
        """Encode one piece of each job's `to_encode`, and call its `encoded`."""

    def denoise(self, jobs: Sequence[Job]) -> None:
        """Take one denoising step of each job; a canvas that is done is settled."""

    def leave(self, job: Job) -> None:
        """The job has ended between two passes: what it encoded may be kept for others."""

    def free(self) -> None:
        """Give back memory that is held for later only."""


class Scheduler:
    """Requests in line, requests at work, and the next tick. `submit` may come from any thread."""

    def __init__(self, passes: Passes, limits: Limits) -> None:
        self.limits = limits
        self.active: list[Job] = []
        self._passes = passes
        self._line: deque[Job] = deque()
        self._guard = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def submit(self, job: Job) -> None:
        """Put a job in line.

        Raises `QueueFullError` at once where the line is full, and `ContextLengthError` for a
        job whose cache could never fit.
        """
        needed = self._passes.cache_bytes(job.tokens)
        allowed = self.limits.cache_bytes
        if allowed is not None and needed > allowed:
            raise ContextLengthError(
                f"The request may come to {job.tokens} tokens, whose cache takes {needed} bytes; "
                f"this engine has {allowed}. Shorten the prompt or lower max_tokens."
            )
        with self._guard:
            tokens = sum(len(each.request.prompt_ids) for each in self._line)
            if len(self._line) >= self.limits.queued or (
                self._line and tokens + len(job.request.prompt_ids) > self.limits.queued_tokens
            ):
                raise QueueFullError(
                    f"{len(self._line)} requests with {tokens} prompt tokens are in line already "
                    f"(at most {self.limits.queued} and {self.limits.queued_tokens}). Try again "
                    "when some have ended."
                )
            self._line.append(job)

    def tick(self) -> bool:
        """Advance every active job that is ready by one pass. False if there was nothing to do."""
        self._let_go()
        self._admit()
        encoded = self._run(self._passes.encode, _encodes)
        self._let_go()
        denoised = self._run(self._passes.denoise, _denoises)
        self._let_go()
        return encoded or denoised

    def end_all(self, error: Callable[[], BaseException]) -> None:
        """Fail everything at work and in line, each with an error of its own."""
        with self._guard:
            jobs = [*self.active, *self._line]
            self.active.clear()
            self._line.clear()
        for job in jobs:
            if not job.ended:
                job.end(error())

    def _let_go(self) -> None:
        """Drop the jobs that ended, were given up, or ran out of time, wherever they stand."""
        with self._guard:
            standing = [*self.active, *self._line]
        for job in standing:  # not guarded: keeping a prefix copies it, and `submit` must not wait
            if not job.ended:
                self._end_if_over(job)
        with self._guard:
            self.active = [job for job in self.active if not job.ended]
            self._line = deque(job for job in self._line if not job.ended)

    def _end_if_over(self, job: Job) -> None:
        try:
            job.request.check()
        except GenerationError as error:
            try:
                self._passes.leave(job)
            except Exception:  # noqa: BLE001 - there is no memory to keep it
                self._passes.free()
            job.end(error.with_traceback(None))  # whose frames would keep the job

    def _admit(self) -> None:
        """In the order of their coming, as long as caches fit; nobody overtakes."""
        with self._guard:
            held = sum(self._passes.cache_bytes(job.tokens) for job in self.active)
            while self._line and len(self.active) < self.limits.active:
                needed = self._passes.cache_bytes(self._line[0].tokens)
                if self.limits.cache_bytes is not None and held + needed > self.limits.cache_bytes:
                    return
                held += needed
                self.active.append(self._line.popleft())

    def _run(self, run: Callable[[Sequence[Job]], None], wants: Callable[[Job], bool]) -> bool:
        """One pass for all that want it; if it fails, one for each, so that only the culprit
        fails. Those it got through before it failed want it no more."""
        jobs = [job for job in self.active if wants(job)]
        if not jobs:
            return False
        failure = _failure_of(run, jobs)
        if failure is None:
            return True
        if len(jobs) == 1 and not _out_of_memory(failure):
            jobs[0].end(failure)
            return True
        self._passes.free()
        for job in filter(wants, jobs):
            self._run_alone(run, job)
        return True

    def _run_alone(self, run: Callable[[Sequence[Job]], None], job: Job) -> None:
        job.start_over()
        failure = _failure_of(run, [job])
        if failure is not None:
            job.end(_told(failure))


def _encodes(job: Job) -> bool:
    return not job.ended and job.ready and bool(job.to_encode)


def _denoises(job: Job) -> bool:
    return not job.ended and job.ready and not job.to_encode


def _failure_of(run: Callable[[Sequence[Job]], None], jobs: Sequence[Job]) -> Exception | None:
    """What a pass raised, to be told to its readers. Where it was raised stands in a note: the
    frames of a traceback would keep the model, and all the pass had in hand, for as long."""
    try:
        run(jobs)
    except Exception as error:  # noqa: BLE001 - whatever it is, its readers are told
        if not _out_of_memory(error):
            error.add_note("On the engine's thread:\n" + "".join(format_tb(error.__traceback__)))
        return error.with_traceback(None)
    return None


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _told(error: Exception) -> Exception:
    if not _out_of_memory(error):
        return error
    told = GenerationError(
        "The device ran out of memory for this request alone. Shorten the prompt, lower "
        "max_tokens, or load the model quantized."
    )
    told.__cause__ = error
    return told
