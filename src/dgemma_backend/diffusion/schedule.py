"""How the temperature falls over the denoising steps of a canvas."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearSchedule:
    """Falls in a line from `t_max` towards `t_min` over `steps` steps.

    At step n (from 1) of N: `t_min + (t_max - t_min) * (N - n + 1) / N`, so the first step has
    `t_max` and the last lies one notch above `t_min` (transformers' generation code). Steps
    past N keep the last value: the curve belongs to the checkpoint, not to a request's cap.
    """

    t_min: float
    t_max: float
    steps: int

    def temperature(self, step: int) -> float:
        """Temperature of step `step`, counted from 1."""
        remaining = max(self.steps - step + 1, 1)
        return self.t_min + (self.t_max - self.t_min) * remaining / self.steps
