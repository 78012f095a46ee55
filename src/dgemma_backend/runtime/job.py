"""One request inside the scheduler: how far it is, and what it tells its reader."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from dgemma_backend.diffusion import CanvasDenoiser
from dgemma_backend.events import Draft
from dgemma_backend.runtime.request import Request

DRAFTS_AHEAD = 4
"""Drafts a job may be ahead of its reader before it pauses."""


@dataclass(frozen=True)
class CanvasResult:
    """A settled canvas before the cut: all of its ids, and how it got there."""

    number: int
    token_ids: list[int]
    steps: int
    converged: bool


@dataclass(eq=False)
class Job:
    """A request's state between two passes. Only the scheduler's thread changes it.

    The reader gets drafts, results and at last an error (or nothing more) from `outbox`. After
    a result the job rests until the reader asks for the next canvas with `go_on`.
    """

    request: Request
    canvases: int
    drafts: bool = False
    outbox: "SimpleQueue[Draft | CanvasResult | BaseException]" = field(default_factory=SimpleQueue)
    cache: Any = None
    context: Any = None  # what the current canvas sees
    denoiser: CanvasDenoiser | None = None
    number: int = 0
    prefill_seconds: float = 0.0
    steps: int = 0
    to_encode: list[int] = field(default_factory=list)
    ended: bool = False
    _committed: list[int] = field(default_factory=list)
    _resting: bool = False

    def __post_init__(self) -> None:
        self.to_encode = list(self.request.prompt_ids)

    @property
    def tokens(self) -> int:
        """Positions it may come to hold in its cache."""
        return len(self.request.prompt_ids) + self.request.max_tokens

    @property
    def ready(self) -> bool:
        """Whether a pass may be run for it now: its reader has kept up."""
        return not self._resting and self.outbox.qsize() < DRAFTS_AHEAD

    def go_on(self) -> None:
        """The reader's: start the next canvas."""
        self._resting = False

    def encoded(self, count: int) -> None:
        """The first `count` of `to_encode` are in the cache."""
        del self.to_encode[:count]

    def start_over(self) -> None:
        """Forget the cache and encode everything anew: a pass failed halfway through it."""
        self.cache = self.context = None
        self.to_encode = [*self.request.prompt_ids, *self._committed]

    def settle(self, ids: Sequence[int], converged: bool) -> None:
        """The canvas is final: tell the reader, and rest until it wants another."""
        steps = 0 if self.denoiser is None else self.denoiser.steps
        self._committed += ids
        self.to_encode += ids
        self.denoiser = self.context = None
        self._resting = True
        self.number += 1
        self.outbox.put(CanvasResult(self.number - 1, list(ids), steps, converged))

    def end(self, error: BaseException | None = None) -> None:
        """Let go of everything it holds; with an error, tell the reader."""
        self.ended = True
        self.cache = self.context = self.denoiser = None
        if error is not None:
            self.outbox.put(error)
