"""Examples as token ids, rendered by the same chat protocol that serves requests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from dgemma_backend.chat.conversation import write_call
from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.segments import Segment, SegmentWriter, TextSegment
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.messages import Message
from tiny_trainer.examples import Example
from tiny_trainer.tasks.registry import training_scene
from tiny_trainer.words import TRAINING, Words

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Encoded:
    """A prompt and the answer to it, stop token included."""

    task: str
    prompt: list[int]
    answer: list[int]


def protocol_of(folder: Path) -> Gemma4Protocol:
    """The chat protocol over the tokenizer in `folder`."""
    return Gemma4Protocol(ChatTokenizer.from_file(folder / "tokenizer.json"))


def answer_message(example: Example) -> Message:
    """The answer as the assistant message it is."""
    if isinstance(example.answer, str):
        return Message.assistant(example.answer, reasoning=example.reasoning)
    return Message.assistant(tool_calls=example.answer, reasoning=example.reasoning)


def encode(example: Example, protocol: Gemma4Protocol) -> Encoded:
    """The example in ids."""
    prompt = protocol.prompt_ids(example.messages, example.tools, thinking=example.thinking)
    return Encoded(example.task, prompt, protocol.answer_ids(answer_message(example)))


def training_examples(seed: str, words: Words = TRAINING) -> Iterator[Example]:
    """The endless mixture, scene after scene; the same seed gives the same examples."""
    rng = Random(seed)
    while True:
        yield from training_scene(rng, words)


def texts_for_tokenizer(count: int, seed: str) -> Iterator[str]:
    """The text segments of `count` examples, answers included, for the tokenizer to learn from.

    `Gemma4Protocol.segments` needs a tokenizer only for its control ids, which are not asked here.
    """
    renderer = object.__new__(Gemma4Protocol)
    renderer.generation, renderer.normalise = "diffusiongemma-hub", True
    for example in islice(training_examples(seed), count):
        segments: list[Segment] = renderer.segments(
            example.messages, example.tools, thinking=example.thinking
        )
        writer = SegmentWriter()
        if isinstance(example.answer, str):
            writer.text(example.answer)
        else:
            for call in example.answer:
                write_call(writer, call)
        for segment in [*segments, *writer.segments]:
            if isinstance(segment, TextSegment):
                yield segment.text
