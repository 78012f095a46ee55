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


@dataclass(frozen=True)
class Task:
    """An entry of the task registry; a `weight` is relative to the other tasks'."""

    name: str
    weight: float
    make: Callable[[Random, Words], Example]


SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant[ who|. You|, you] [answers|answer] briefly.",
    "You are a [friendly|polite|careful|useful|kind|small] assistant.",
    "You are an assistant[ for a small company| in a library| on a phone| for travellers|].",
    "[Be|Please be] [short|concise|polite|friendly|precise|helpful].",
    "Answer [briefly|shortly|in one sentence|in a friendly way|clearly|politely].",
    "Keep your answers short[ and clear|].",
    "Help the user[ as well as you can| with short answers| politely|].",
    "You [help people|assist the user|serve customers][ with their questions| every day|].",
    "You are a chat model. [Be useful.|Be kind.|Keep it short.]",
)


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


def with_system(rng: Random, messages: Sequence[Message], share: float) -> tuple[Message, ...]:
    """The same messages, in `share` of the cases under a general system prompt."""
    if rng.random() < share:
        return (Message.system(one_of(SYSTEM_PROMPTS, rng)), *messages)
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
    """The template with a word dropped, added or moved, in `words.noise` of the cases.

    Wordings are finite and users are not: a model that has seen broken sentences leans less on
    any one word. Slots and choices stay whole; the evaluator's pool has no noise.
    """
    if rng.random() >= words.noise:
        return template
    parts = re.split(r"( )", template)
    at = rng.randrange(len(parts))
    if not parts[at].isalpha():
        return template
    kind = rng.random()
    if kind < 0.4 and parts[at].lower() in _DROPPABLE:
        parts[at : at + 2] = []
    elif kind < 0.75:
        parts[at:at] = [rng.choice(_ADVERBS), " "]
    elif at + 2 < len(parts) and parts[at + 2].isalpha():
        parts[at], parts[at + 2] = parts[at + 2], parts[at]
    return "".join(parts)
