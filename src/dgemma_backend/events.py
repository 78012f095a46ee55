"""What a running request yields, in order.

A Draft may be revised by the next one; everything else is final. A request that ends without an
error yields exactly one Finished, last.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgemma_backend.messages import InvalidToolCall, Reply, ToolCall


@dataclass(frozen=True)
class Draft:
    """The canvas after one denoising step; the next step may change any of it.

    `canvas` and `step` count from 0 and 1. `text` is the decoded draft, `accepted` the number of
    positions the sampler kept in this step, `mean_entropy` is in nats per position.
    """

    canvas: int
    step: int
    max_steps: int
    text: str
    token_ids: tuple[int, ...]
    accepted: int
    mean_entropy: float


@dataclass(frozen=True)
class TextDelta:
    """Final text of the answer, to be appended to what came before."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """Final text of the model's thinking, never part of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallDone:
    """A tool call, complete."""

    call: ToolCall


@dataclass(frozen=True)
class InvalidToolCallDone:
    """A tool call the model did not finish properly."""

    call: InvalidToolCall


@dataclass(frozen=True)
class CanvasCommitted:
    """A canvas became final. `token_ids` are those that count, the cut applied.

    `converged` is False when the step cap ended the canvas before its stop rule did.
    """

    canvas: int
    token_ids: tuple[int, ...]
    steps: int
    converged: bool


@dataclass(frozen=True)
class Finished:
    """The request is over; `reply` holds everything."""

    reply: Reply


ParsedEvent = TextDelta | ReasoningDelta | ToolCallDone | InvalidToolCallDone
Event = Draft | ParsedEvent | CanvasCommitted | Finished
