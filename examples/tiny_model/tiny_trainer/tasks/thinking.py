"""Thinking switched on: a short thought in its channel, then the answer."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tiny_trainer.examples import Example
from tiny_trainer.tasks.retrieval import training_retrieval
from tiny_trainer.tasks.small_talk import small_talk
from tiny_trainer.tasks.tool_scenes import training_tools
from tiny_trainer.words import Words


def thought_about(example: Example) -> str:
    """What the model thinks before it answers."""
    if not isinstance(example.answer, str):
        return f"I use {' and '.join(call.name for call in example.answer)}."
    if example.subject:
        return f"I look for {example.subject}."
    if example.tools:
        return "No tool fits."
    return "The user talks to me."


def thoughtful(example: Example) -> Example:
    """The same example with thinking on."""
    return replace(example, thinking=True, reasoning=thought_about(example))


def training_thoughts(rng: Random, words: Words) -> tuple[Example, ...]:
    """A scene of another task with thinking on; a thought stands only after a user's message."""
    kind = rng.random()
    if kind < 0.4:
        examples = training_retrieval(rng, words)
    elif kind < 0.75:
        examples = training_tools(rng, words)
    else:
        examples = tuple(small_talk(rng, words) for _ in range(3))
    asked = [each for each in examples if each.messages[-1].role == "user"]
    return tuple(thoughtful(each) for each in asked)
