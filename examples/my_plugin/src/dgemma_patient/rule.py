"""The part: imported when somebody asks for the stop rule "patient"."""

import torch
from torch import Tensor

from dgemma_backend.diffusion.stopping import StepStatistics

STEPS = 4


class Patient:
    """Ends a canvas whose draft was the same in `STEPS` steps running."""

    def __init__(self, settings: object) -> None:
        """`settings` are the request's decoding settings; this rule needs none of them."""

    def start(self) -> "Waiting":
        """A fresh state, because every canvas starts over."""
        return Waiting()


class Waiting:
    def __init__(self) -> None:
        self._draft: Tensor | None = None
        self._same = 0

    def update(self, statistics: StepStatistics) -> bool:
        """Take in a step; True ends the canvas."""
        unchanged = self._draft is not None and torch.equal(statistics.argmax, self._draft)
        self._same = self._same + 1 if unchanged else 1
        self._draft = statistics.argmax
        return self._same >= STEPS
