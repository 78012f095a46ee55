"""When a canvas is finished. A rule is a small object; `start()` gives a canvas its own state."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepStatistics:
    """What a stop rule may look at after a step."""

    step: int  # counted from 1
    argmax: Tensor  # (L,) ids
    entropy: Tensor  # (L,) nats, of the tempered distribution

    @cached_property
    def mean_entropy(self) -> Tensor:
        """Mean over the canvas, a 0-dimensional tensor."""
        return self.entropy.mean()


class StopState(Protocol):
    """A rule at work on one canvas."""

    def update(self, statistics: StepStatistics) -> bool | Tensor:
        """Take in a step; True (or a true 0-dimensional tensor) ends the canvas."""


class StopRule(Protocol):
    """Makes a fresh state for each canvas."""

    def start(self) -> StopState:
        """State for a canvas about to begin."""


class StopSettings(Protocol):
    """What the stop-rule factories read of the decoding settings."""

    @property
    def confidence_threshold(self) -> float:
        """In nats."""

    @property
    def stability_threshold(self) -> int:
        """In steps."""


class Never:
    """Runs every canvas to the step cap."""

    def __init__(self, settings: object = None) -> None:
        del settings

    def start(self) -> "Never":
        """It has no state."""
        return self

    def update(self, statistics: StepStatistics) -> bool:
        """Never true."""
        del statistics
        return False


class StableAndConfident:
    """Ends when the argmax canvas repeated and the mean entropy is low.

    It must equal each of the last `stability_threshold` argmax canvases (so there are at least
    that many steps before), and the mean entropy must be below `confidence_threshold` nats.
    """

    def __init__(self, settings: StopSettings) -> None:
        self.confidence = settings.confidence_threshold
        self.stability = settings.stability_threshold

    def start(self) -> "_Watching":
        """No canvas seen yet."""
        return _Watching(self.confidence, self.stability)


class _Watching:
    def __init__(self, confidence: float, stability: int) -> None:
        self._confidence = confidence
        self._seen: deque[Tensor] = deque(maxlen=stability)

    def update(self, statistics: StepStatistics) -> bool | Tensor:
        seen, now = self._seen, statistics.argmax
        full = len(seen) == seen.maxlen
        repeated = (
            [torch.equal(now, before) for before in seen]
            if now.device.type == "cpu"
            else [(now == before).all() for before in seen]
        )
        seen.append(now)
        if not full:
            return False
        calm = statistics.mean_entropy < self._confidence
        for same in repeated:
            calm = calm & same
        return calm


class AnyOf:
    """Ends as soon as one of its rules does. Every rule sees every step."""

    def __init__(self, rules: Sequence[StopRule]) -> None:
        self.rules = tuple(rules)

    def start(self) -> "_AnyState":
        """A state for each rule."""
        return _AnyState([rule.start() for rule in self.rules])


class _AnyState:
    def __init__(self, states: list[StopState]) -> None:
        self._states = states

    def update(self, statistics: StepStatistics) -> bool | Tensor:
        verdicts = [torch.as_tensor(state.update(statistics)) for state in self._states]
        return torch.stack([v.cpu() for v in verdicts]).any() if verdicts else False
