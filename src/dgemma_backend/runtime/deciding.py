"""Decisions through an engine: prompts in, one read of each canvas, probabilities out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.decisions import Decision, shares
from dgemma_backend.errors import GenerationError, SettingError
from dgemma_backend.runtime.feed import Feed
from dgemma_backend.runtime.outbox import CanvasResult
from dgemma_backend.runtime.request import Request
from dgemma_backend.settings import GenerationSettings

AHEAD = 32
"""Decisions under way at once: enough to share passes, fewer than the line may hold."""

MOST_CANVASES = 64
"""Reads that one decision may be the mean of."""
_APPLY = ("seed", "timeout", "isolate", "cache_salt")


@dataclass(frozen=True)
class Question:
    """Answers to choose from, as the ids they would be committed as.

    Each answer stands twice: by itself and behind an empty thought, which the model may open
    even where thinking is off.
    """

    answers: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, answers: tuple[str, ...], protocol: Gemma4Protocol, canvas_length: int) -> Question:
        """Raises SettingError for an answer that does not fit a canvas."""
        header, end = protocol.empty_thought_ids(), protocol.end_of_turn_id
        sequences = []
        for answer in answers:
            ids = (*protocol.tokenizer.encode_text(answer), end)
            if len(header) + len(ids) > canvas_length:
                raise SettingError(
                    f"the choice {answer!r:.60} has {len(ids)} tokens, its end included; the "
                    f"canvas has room for {canvas_length - len(header)}"
                )
            sequences += [ids, (*header, *ids)]
        return cls(answers, tuple(sequences))

    def shares(self, log_probabilities: Sequence[float]) -> list[float]:
        """Log probabilities of `sequences` -> the share of each answer."""
        pairs = zip(log_probabilities[::2], log_probabilities[1::2], strict=True)
        return shares([_log_sum(pair) for pair in pairs])


def reading_settings(asked: GenerationSettings) -> GenerationSettings:
    """Settings for one denoising step and nothing committed.

    Raises SettingError for settings that a read has no use for.
    """
    plain = GenerationSettings()
    for field in fields(asked):
        value = getattr(asked, field.name)
        if field.name not in _APPLY and value != getattr(plain, field.name):
            raise SettingError(
                f"{field.name}={value!r} means nothing for a decision, which reads one denoising "
                f"step; it takes {', '.join(_APPLY)}"
            )
    return replace(asked, max_tokens=1, max_denoising_steps=1, temperature=0.0)


def decided(request: Request, question: Question, feed: Feed, canvases: int) -> Decision:
    """Read `canvases` canvases of one request. Blocks; raises what ended the request."""
    totals = [0.0] * len(question.answers)
    with closing(feed):
        for number in range(canvases):
            _add(totals, question, feed.get())
            if number + 1 < canvases:
                feed.commit(())
    return _decision(totals, request, question, canvases)


async def adecided(request: Request, question: Question, feed: Feed, canvases: int) -> Decision:
    """`decided` that leaves the event loop free."""
    totals = [0.0] * len(question.answers)
    with closing(feed):
        for number in range(canvases):
            _add(totals, question, await feed.aget())
            if number + 1 < canvases:
                feed.commit(())
    return _decision(totals, request, question, canvases)


def decided_in_order(
    begun: Iterator[tuple[Request, Feed]], question: Question, canvases: int
) -> Iterator[Decision]:
    """Decisions in the order of their requests, `AHEAD` of them under way at once."""
    waiting: deque[tuple[Request, Feed]] = deque()
    try:
        for pair in begun:
            waiting.append(pair)
            if len(waiting) >= AHEAD:
                yield decided(waiting[0][0], question, waiting.popleft()[1], canvases)
        while waiting:
            yield decided(waiting[0][0], question, waiting.popleft()[1], canvases)
    finally:
        for _, feed in waiting:
            feed.close()


def _add(totals: list[float], question: Question, result: object) -> None:
    if not isinstance(result, CanvasResult) or len(result.scores) != len(question.sequences):
        raise GenerationError(f"the engine gave {result!r:.80} in place of a canvas' scores")
    for at, share in enumerate(question.shares(result.scores)):
        totals[at] += share


def _decision(
    totals: Sequence[float], request: Request, question: Question, canvases: int
) -> Decision:
    found = {
        answer: total / canvases for answer, total in zip(question.answers, totals, strict=True)
    }
    return Decision(found, canvases, request.seed)


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(each - top) for each in values))
