"""Thinking switched on: a short thought in its channel, then the answer."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tiny_trainer.examples import Example
from tiny_trainer.tasks.context_qa import training_question
from tiny_trainer.tasks.small_talk import small_talk
from tiny_trainer.words import Words

THOUGHT_OF_CONTEXT = "The text tells me."
THOUGHT_OF_TALK = "The user talks to me."


def thinking(rng: Random, words: Words) -> Example:
    """A context question or small talk, answered after a thought."""
    if rng.random() < 0.6:
        example, thought = training_question(rng, words), THOUGHT_OF_CONTEXT
    else:
        example, thought = small_talk(rng, words), THOUGHT_OF_TALK
    return replace(example, task="thinking", thinking=True, reasoning=thought)
