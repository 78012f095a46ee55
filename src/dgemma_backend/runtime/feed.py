"""A request's canvases as its reader gets them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dgemma_backend.events import Draft
from dgemma_backend.runtime.outbox import CanvasResult


class Feed(ABC):
    """Settled canvases of one request, one after another, each preceded by its drafts if wanted.

    After each canvas the reader says with `commit` what of it is final, which starts the next
    one, or closes the feed.
    """

    @abstractmethod
    def get(self) -> Draft | CanvasResult:
        """The next draft or canvas. Blocks; raises what ended the request."""

    @abstractmethod
    async def aget(self) -> Draft | CanvasResult:
        """`get` that leaves the event loop free."""

    @abstractmethod
    def commit(self, token_ids: Sequence[int]) -> None:
        """These ids follow the prefix for good; denoise another canvas behind them."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more is wanted: the work stops within a denoising step."""
