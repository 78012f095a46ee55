"""One request inside the scheduler: how far it is, and what it tells its reader."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dgemma_backend.diffusion import CanvasDenoiser
from dgemma_backend.runtime.outbox import CanvasResult, Outbox
from dgemma_backend.runtime.request import Request

DRAFTS_AHEAD = 4
"""Drafts a job may be ahead of its reader before it pauses."""


@dataclass(eq=False)
class Job:
    """A request's state between two passes. Only the scheduler's thread changes it.

    The reader gets drafts, results and at last an error (or nothing more) from `outbox`. After
    a result the job rests until the reader says with `go_on` what of the canvas is final.
    """

    request: Request
    drafts: bool = False
    outbox: Outbox = field(default_factory=Outbox)
    cache: Any = None
    context: Any = None  # what the current canvas sees
    denoiser: CanvasDenoiser | None = None
    number: int = 0
    rerolled: int = 0  # canvases thrown away in favour of the current one
    cached_tokens: int = 0
    part_at: int = 0  # where its tokens part from those of earlier requests
    prefill_seconds: float = 0.0
    to_encode: list[int] = field(default_factory=list)
    ended: bool = False
    _committed: list[int] = field(default_factory=list)
    _steps: int = 0  # of the canvases thrown away
    _resting: bool = False
    constraint: Any = None  # a `ConstrainedAnswer`: what of the form is left to be written

    def __post_init__(self) -> None:
        self.to_encode = list(self.request.prompt_ids)

    @property
    def tokens(self) -> int:
        """Positions it may come to hold in its cache."""
        return len(self.request.prompt_ids) + self.request.max_tokens

    @property
    def token_ids(self) -> list[int]:
        """Prompt and everything committed: what the cache holds once `to_encode` is empty."""
        return [*self.request.prompt_ids, *self._committed]

    @property
    def ready(self) -> bool:
        """Whether a pass may be run for it now: its reader has kept up."""
        return not self._resting and len(self.outbox) < DRAFTS_AHEAD

    def go_on(self, token_ids: Sequence[int]) -> None:
        """The reader's: these ids are final, start the next canvas behind them."""
        if self.constraint is not None:
            self.constraint.take(token_ids)
        self._committed += token_ids
        self.to_encode += token_ids
        self.number += 1
        self._resting = False

    def encoded(self, count: int) -> None:
        """The first `count` of `to_encode` are in the cache."""
        del self.to_encode[:count]

    def start_over(self) -> None:
        """Forget what a failed pass may have left half done.

        That is the cache while there is something to encode, else the canvas, which comes out
        the same from the same noise.
        """
        self.context = None
        if self.to_encode:
            self.cache = None
            self.cached_tokens = 0
            self.to_encode = self.token_ids
        else:
            self.denoiser = None

    def reroll(self) -> None:
        """Throw the settled canvas away; the next one starts from other noise."""
        if self.denoiser is not None:
            self._steps += self.denoiser.steps
        self.denoiser = self.context = None
        self.rerolled += 1

    def settle(self, ids: Sequence[int], converged: bool, scores: tuple[float, ...] = ()) -> None:
        """The canvas is final up to its cut: tell the reader, and rest until it wants another."""
        steps = self._steps + (0 if self.denoiser is None else self.denoiser.steps)
        rerolled = self.rerolled
        self.denoiser = self.context = None
        self._steps = self.rerolled = 0
        self._resting = True
        self.outbox.put(
            CanvasResult(
                self.number,
                list(ids),
                steps,
                converged,
                rerolled,
                self.prefill_seconds,
                self.cached_tokens,
                scores,
            )
        )

    def end(self, error: BaseException | None = None) -> None:
        """Let go of everything it holds; with an error, tell the reader."""
        self.ended = True
        self.cache = self.context = self.denoiser = None
        if error is not None:
            self.outbox.put(error)
