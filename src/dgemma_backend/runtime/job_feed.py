"""The canvases of a job, from the worker's thread to its reader."""

from collections.abc import Sequence

from dgemma_backend.events import Draft
from dgemma_backend.runtime.feed import Feed
from dgemma_backend.runtime.job import Job
from dgemma_backend.runtime.outbox import CanvasResult, Item
from dgemma_backend.runtime.worker import Worker


class JobFeed(Feed):
    """The feed of a job at a worker. Dropping it closes it too."""

    def __init__(self, worker: Worker, job: Job) -> None:
        """Put the job in line. Raises as `Worker.submit`."""
        self._job = job
        self._worker = worker
        worker.submit(job)

    def get(self) -> Draft | CanvasResult:
        """As `Feed.get`."""
        return self._passed_on(self._job.outbox.get())

    async def aget(self) -> Draft | CanvasResult:
        """As `Feed.aget`."""
        return self._passed_on(await self._job.outbox.aget())

    def commit(self, token_ids: Sequence[int]) -> None:
        """As `Feed.commit`."""
        self._job.go_on(token_ids)
        self._worker.wake()

    def close(self) -> None:
        """As `Feed.close`."""
        self._job.request.cancelled.set()
        self._worker.wake()

    def __del__(self) -> None:
        if hasattr(self, "_worker"):
            self.close()

    def _passed_on(self, item: Item) -> Draft | CanvasResult:
        if isinstance(item, BaseException):
            try:
                raise item
            finally:
                del item  # or this frame keeps the error, and the error the frame and its job
        self._worker.wake()  # there is room for another draft
        return item
