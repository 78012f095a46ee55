"""Random ids to copy and to look up: what makes a model attend to its context at all.

Nothing in a drill can be guessed, so the only way to a lower loss is to find the place in the
prompt. The heads that do so form here within some two hundred steps; in a mixture of texts, where
so much can be guessed, they had not formed after five hundred.
"""

from __future__ import annotations

from random import Random

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.messages import Message
from tiny_trainer.rendering import Encoded

_MARK = "@"


class Drills:
    """Draws drills in the frame of a chat, for one tokenizer."""

    def __init__(self, protocol: Gemma4Protocol, vocabulary: int) -> None:
        frame = protocol.prompt_ids([Message.user(_MARK)])
        (mark,) = protocol.tokenizer.encode_text(_MARK)
        at = frame.index(mark)
        self._before, self._after = frame[:at], frame[at + 1 :]
        self._stop = protocol.tokenizer.control_id("<turn|>")
        self._ids = range(len(protocol.tokenizer.control_ids), vocabulary)

    def draw(self, rng: Random) -> list[Encoded]:
        """A text to copy, or a table with several keys to look up."""
        if rng.random() < 0.6:
            text = self._random(rng, 4, 24)
            return [self._encoded("copy_drill", [*self._random(rng, 0, 6), *text], text)]
        longest = rng.choice((1, 1, 2, 3))
        between = self._random(rng, 0, 2)
        table = [
            (self._random(rng, 1, longest), [*between, *self._random(rng, 1, longest + 1)])
            for _ in range(rng.randint(2, 10))
        ]
        end = self._random(rng, 0, 1)
        context = [token for key, value in table for token in (*key, *value, *end)]
        asked = self._random(rng, 0, 3)
        return [
            self._encoded("lookup_drill", [*context, *asked, *key], value)
            for key, value in rng.sample(table, min(len(table), 4))
        ]

    def _encoded(self, task: str, prompt: list[int], answer: list[int]) -> Encoded:
        return Encoded(task, [*self._before, *prompt, *self._after], [*answer, self._stop])

    def _random(self, rng: Random, low: int, high: int) -> list[int]:
        return [rng.choice(self._ids) for _ in range(rng.randint(low, high))]
