"""The one thread that owns the device: it runs the scheduler's ticks while there is work."""

import atexit
import os
import threading
import weakref
from functools import partial

from dgemma_backend.errors import EngineClosedError, GenerationError
from dgemma_backend.runtime.job import Job
from dgemma_backend.runtime.scheduler import Scheduler

_EXIT_SECONDS = 2.0


class Worker:
    """Starts with the first job and sleeps when nobody wants anything."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self._scheduler: Scheduler | None = scheduler
        self._name = name
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._process = os.getpid()

    def submit(self, job: Job) -> None:
        """Put a job in line. Raises as `Scheduler.submit`, and `EngineClosedError` in a process
        forked after this one had opened the engine."""
        if os.getpid() != self._process:
            raise EngineClosedError(
                f"This engine was opened in process {self._process}, and a fork, here "
                f"{os.getpid()}, has none of its threads. Open the engine after forking, or "
                "start processes with the 'spawn' method."
            )
        scheduler = self._running()
        scheduler.submit(job)
        self._start()
        self._wake.set()
        if self._closed:  # meanwhile: nobody else would tell this job's reader
            scheduler.end_all(self._gone)

    def wake(self) -> None:
        """Something a job waited for has changed."""
        self._wake.set()

    def close(self) -> None:
        """End everything under way with `EngineClosedError`; returns when the device is free."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._end_all()
        self._scheduler = None  # and with it the model

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"dgemma-{self._name}", daemon=True
                )
                self._thread.start()
                _at_exit(self)

    def _running(self) -> Scheduler:
        if self._closed or self._scheduler is None:
            raise self._gone()
        return self._scheduler

    def _gone(self) -> EngineClosedError:
        return EngineClosedError(f"The engine of {self._name} was closed meanwhile.")

    def _work(self) -> None:
        scheduler = self._running()
        try:
            while not self._closed:
                self._wake.clear()
                if not scheduler.tick() and not self._closed:
                    self._wake.wait()
        except BaseException as error:
            self._closed = True
            # nobody may wait for a thread that is gone
            scheduler.end_all(partial(_died, error))
            raise

    def _end_all(self) -> None:
        if self._scheduler is not None:
            self._scheduler.end_all(self._gone)

    def stop_for_exit(self) -> None:
        """Leave the device between two passes before the interpreter goes."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_EXIT_SECONDS)


def _died(cause: BaseException) -> GenerationError:
    told = GenerationError(f"The engine's thread was stopped by {cause!r}. Open the engine anew.")
    told.__cause__ = cause
    return told


def _at_exit(worker: Worker) -> None:
    known = weakref.ref(worker)

    def stop() -> None:
        if (still := known()) is not None:
            still.stop_for_exit()

    atexit.register(stop)
