"""One-pass reads: how likely the model thinks each of a few given answers.

The first denoising pass gives every canvas position a distribution over tokens, each on its own.
An answer's probability is the product of its tokens' at their positions, the end of the turn
included, divided by the sum over all answers offered. So the numbers compare the given answers
with one another; they are not calibrated, and say nothing of an answer that was not offered. For
answers of several tokens the positions are taken as independent, which a draft of noise only
roughly bears out: prefer answers of one or two tokens, or average over several canvases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgemma_backend.errors import SettingError

YES_NO = ("yes", "no")
MOST_CHOICES = 256


@dataclass(frozen=True)
class Score:
    """Whole numbers from `low` to `high` as answers; the decision has an `expected` one."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not all(isinstance(each, int) for each in (self.low, self.high)):
            raise SettingError(
                f"a score goes between whole numbers, got {self.low!r}, {self.high!r}"
            )
        if not self.low < self.high or self.high - self.low >= MOST_CHOICES:
            raise SettingError(
                f"a score from {self.low} to {self.high} must rise and have at most "
                f"{MOST_CHOICES} values"
            )


Choices = Sequence[str] | Score


@dataclass(frozen=True)
class Decision:
    """How likely each answer is in comparison with the others, in the order they were given.

    `probabilities` sum to 1 and are the mean over `canvases` reads. `doubt` is their entropy
    divided by that of a blind guess: 0 is certain, 1 knows nothing.
    """

    probabilities: dict[str, float]
    canvases: int
    seed: int

    @property
    def best(self) -> str:
        """The likeliest answer, the first of equals."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def doubt(self) -> float:
        """From 0 (certain) to 1 (a blind guess)."""
        shares = [share for share in self.probabilities.values() if share > 0]
        if len(self.probabilities) == 1:
            return 0.0
        return -sum(p * math.log(p) for p in shares) / math.log(len(self.probabilities))

    @property
    def expected(self) -> float:
        """The mean of a score. Raises SettingError where the answers are not numbers."""
        try:
            return sum(float(answer) * share for answer, share in self.probabilities.items())
        except ValueError:
            raise SettingError(
                f"only a score has an expected value; the answers here are {self.answers}"
            ) from None

    @property
    def answers(self) -> tuple[str, ...]:
        """What there was to choose from."""
        return tuple(self.probabilities)


def answers_of(choices: Choices) -> tuple[str, ...]:
    """The answers to choose from.

    Raises SettingError for fewer than two, too many, or two that are the same.
    """
    if isinstance(choices, Score):
        return tuple(map(str, range(choices.low, choices.high + 1)))
    if isinstance(choices, str) or not all(isinstance(each, str) for each in choices):
        raise SettingError(f"choices={choices!r:.80} must be a list of strings, or a Score")
    answers = tuple(choices)
    if not 2 <= len(answers) <= MOST_CHOICES:
        raise SettingError(f"there are {len(answers)} choices; 2 to {MOST_CHOICES} are possible")
    if len(set(answers)) < len(answers) or not all(each.strip() for each in answers):
        raise SettingError(f"choices={answers!r:.120} must differ and say something")
    return answers


def shares(log_weights: Sequence[float]) -> list[float]:
    """Log weights -> what they are of their sum."""
    top = max(log_weights)
    weights = [math.exp(each - top) for each in log_weights]
    total = sum(weights)
    return [each / total for each in weights]
