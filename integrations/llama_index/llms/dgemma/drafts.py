"""Drafts as LlamaIndex events: the canvas while it settles, for whoever watches."""

from llama_index_instrumentation.base import BaseEvent

from dgemma_backend.events import Draft


class DraftEvent(BaseEvent):
    """The canvas after one denoising step; the next step may change any of it.

    `canvas` counts from 0, `step` from 1. `accepted` is the number of positions the sampler kept
    in this step, `mean_entropy` is in nats per position. `tags` and `span_id` say whose it is.
    """

    canvas: int
    step: int
    max_steps: int
    text: str
    accepted: int
    mean_entropy: float

    @classmethod
    def class_name(cls) -> str:
        """As `BaseEvent.class_name`."""
        return "DraftEvent"

    @classmethod
    def of(cls, draft: Draft) -> "DraftEvent":
        """The event that tells of `draft`."""
        return cls(
            canvas=draft.canvas,
            step=draft.step,
            max_steps=draft.max_steps,
            text=draft.text,
            accepted=draft.accepted,
            mean_entropy=draft.mean_entropy,
        )
