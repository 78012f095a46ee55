"""Saying back what the user wrote; long texts run over several canvases."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.examples import Example, disturbed, say, with_system
from tiny_trainer.words import Words

_UNUSUAL = "äöüßéèàçñøåčšžłαβγδжяшю你好日本€£½→✓☀😀🎉#@&%*/\\<>=+~^|{}"
REPEAT_REQUESTS = (
    "[Repeat|Say|Write|Please repeat|Copy|Echo][ after me| this| exactly| exactly this|]: {text}",
    '[Repeat|Say|Write|Please say|Copy][ the words| the text| this|] "{text}"[ please|].',
    "[Repeat|Copy|Say] [the next line|the following|the following text|the line below][.|:]\n"
    "{text}",
    "[Can you|Could you|Please|Will you] [repeat|say|write][ this|][:|] {text}",
    '[What I say is|My words are|The text is] "{text}" [Repeat it.|Say it.|Now repeat.]',
    '"{text}"\n[Repeat|Say|Copy] [that|this|it][ please|].',
)
REPEAT_SYSTEM = "[Repeat|Say back|Echo|Write back] [what|everything] the user [says|writes]."


def words_to_repeat(rng: Random, words: Words) -> str:
    """One of: plain words, a name, numbers, a sentence; at times longer than a canvas."""
    kind = rng.random()
    if kind < 0.45:
        return words.phrase(rng, 1, 7)
    if kind < 0.6:
        return words.person(rng)
    if kind < 0.7:
        return " ".join(str(words.integer(rng, 0, 9999)) for _ in range(rng.randint(1, 4)))
    if kind < 0.8:
        return f"{words.title(rng)} [{words.code(rng)}]"
    if kind < 0.83:
        return "".join(rng.choice(_UNUSUAL) for _ in range(rng.randint(1, 6)))
    if kind < 0.92:
        return f"{words.given_name(rng)} {words.phrase(rng, 3, 6)} {words.city(rng)}."
    return words.phrase(rng, 10, 18)


def repetition(requests: Sequence[str], system: str | None, rng: Random, words: Words) -> Example:
    """The text to repeat is the answer."""
    text = words_to_repeat(rng, words)
    if system is not None and rng.random() < 0.06:
        messages: tuple[Message, ...] = (Message.system(say(system, rng)), Message.user(text))
    else:
        template = disturbed(rng.choice(requests), rng, words)
        messages = with_system(rng, words, [Message.user(say(template, rng, text=text))], 0.25)
    return Example("repeat", messages, text)


def training_repetition(rng: Random, words: Words) -> Example:
    """`repetition` in the wordings of the training data."""
    return repetition(REPEAT_REQUESTS, REPEAT_SYSTEM, rng, words)
