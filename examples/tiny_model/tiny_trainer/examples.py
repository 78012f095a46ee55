"""What one training or test example is, and the little language its wordings are written in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from dgemma_backend.messages import Message, Tool, ToolCall
from tiny_trainer.words import Words

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Example:
    """A conversation and what the model should answer: a text, or calls of tools.

    `candidates` is the number of values in the prompt that are of the kind asked for (the answer
    is one of them); `values` the number of values of any kind. They give the chance lines.
    """

    task: str
    messages: tuple[Message, ...]
    answer: str | tuple[ToolCall, ...]
    tools: tuple[Tool, ...] = ()
    thinking: bool = False
    reasoning: str | None = None
    candidates: int = 1
    values: int = 1
    subject: str = ""  # what a context question is about; a thought may say it


@dataclass(frozen=True)
class Task:
    """An entry of the task registry; a `weight` is relative to the other tasks'.

    `make` draws a scene: examples that are learnt side by side. What they have in common at the
    beginning, such as a context or tool declarations, is encoded once.
    """

    name: str
    weight: float
    make: Callable[[Random, Words], tuple[Example, ...]]


def repeated(
    make: Callable[[Random, Words], Example], low: int, high: int
) -> Callable[[Random, Words], tuple[Example, ...]]:
    """Scenes of `low` to `high` unrelated examples."""
    return lambda rng, words: tuple(make(rng, words) for _ in range(rng.randint(low, high)))


def say(template: str, rng: Random, **slots: object) -> str:
    """Write out a template: `[a|b]` is a free choice, `{name}` a slot.

    Choices may nest. Slots are filled last, so their values are never read as templates.
    """
    while True:
        written = _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), template, 1)
        if written == template:
            break
        template = written
    return _SLOT.sub(lambda match: str(slots[match.group(1)]), written)


def one_of(templates: Sequence[str], rng: Random, **slots: object) -> str:
    """Write out one of several templates."""
    return say(rng.choice(templates), rng, **slots)


def with_system(
    rng: Random, words: Words, messages: Sequence[Message], share: float
) -> tuple[Message, ...]:
    """The same messages, in `share` of the cases under a general system prompt."""
    if rng.random() < share:
        return (Message.system(one_of(words.prompts, rng)), *messages)
    return tuple(messages)


def a_listing(names: Sequence[str], rng: Random) -> str:
    """`a, b and c`, or with commas alone."""
    if len(names) == 1:
        return names[0]
    last = rng.choice((" and ", ", ", " and "))
    return ", ".join(names[:-1]) + last + names[-1]


def starting_large(text: str) -> str:
    """The text with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def starting_small(text: str) -> str:
    """The text with its first letter in lower case."""
    return text[:1].lower() + text[1:]


_DROPPABLE = frozenset("the a an is are of to in at for on it this that please and was".split())
_ADVERBS = tuple("now really also still today just here then again maybe well indeed so".split())


def disturbed(template: str, rng: Random, words: Words) -> str:
    """The template with a word dropped, added, moved or replaced, in `words.noise` of the cases.

    Wordings are finite and users are not: a model that has seen broken sentences and words without
    a meaning leans less on any one word. Slots and choices stay whole; the evaluator's pool has no
    noise.
    """
    if rng.random() >= words.noise:
        return template
    if rng.random() < 0.15:
        return f"{starting_large(words.phrase(rng, 1, 4))}{rng.choice(',.:')} {template}"
    parts = re.split(r"( )", template)
    at = rng.randrange(len(parts))
    if not parts[at].isalpha():
        return template
    kind = rng.random()
    if kind < 0.25 and parts[at].lower() in _DROPPABLE:
        parts[at : at + 2] = []
    elif kind < 0.45:
        parts[at:at] = [rng.choice(_ADVERBS), " "]
    elif kind < 0.75:
        parts[at] = words.phrase(rng, 1, 2)
    elif at + 2 < len(parts) and parts[at + 2].isalpha():
        parts[at], parts[at + 2] = parts[at + 2], parts[at]
    return "".join(parts)


def jumbled(slots: Sequence[str], most: int, rng: Random, words: Words) -> str:
    """A wording without a meaning: the slots in any order, up to `most` random words between.

    What is said of what can then only be told from what stands together.
    """
    pieces: list[str] = []
    for slot in rng.sample(slots, len(slots)):
        before = rng.randint(1 if pieces else 0, most)
        pieces += [words.phrase(rng, before, before)] if before else []
        pieces.append(slot)
    if rng.random() < 0.3:
        pieces.append(words.phrase(rng, 1, most))
    return " ".join(pieces)
