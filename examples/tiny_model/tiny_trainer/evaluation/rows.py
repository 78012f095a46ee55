"""The rows of the results table: what is asked, in held-out words and wordings.

Every row says how well a guesser would do. `candidates` is the number of values in the prompt
that are of the kind asked for, `values` the number of ways to fill the answer with values of the
prompt; a guesser who knows the form of the answer is right once in so many times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.evaluation import held_out_wordings as held_out
from tiny_trainer.evaluation.held_out_scenes import FIELDS, RELATIONS, SCENES, TOOLS
from tiny_trainer.evaluation.scoring import Scoring, exact, no_call, thought_then_exact
from tiny_trainer.examples import Example, with_system
from tiny_trainer.scripts import HELD_OUT_FOREIGN
from tiny_trainer.tasks import extract, json_fields, repeat, retrieval, small_talk, tool_scenes
from tiny_trainer.tasks.thinking import thoughtful
from tiny_trainer.tasks.tool_making import TYPES, Kit, known_kit, made_up_kit
from tiny_trainer.words import HELD_OUT, TRAINING, Words

UNSEEN = replace(HELD_OUT, synthetic=0.5)
SEEN = replace(TRAINING, synthetic=0.0, noise=0.0, foreign=0.0, prompts=HELD_OUT.prompts)
MADE_UP = replace(HELD_OUT, synthetic=1.0)
SCRIPTS = replace(
    HELD_OUT,
    given=HELD_OUT_FOREIGN,
    family=HELD_OUT_FOREIGN,
    cities=HELD_OUT_FOREIGN,
    title_words=HELD_OUT_FOREIGN,
)

Make = Callable[[Random, Words], tuple[Example, ...]]


@dataclass(frozen=True)
class Row:
    """One row: `make` draws a case, one example or a chain of them that must all be right."""

    name: str
    make: Make
    words: Words = UNSEEN
    scoring: Scoring = exact


def facts(count: int, answerable: bool = True) -> Make:
    """`count` facts of the asked kind."""

    def make(rng: Random, words: Words) -> tuple[Example, ...]:
        told = retrieval.tell(held_out.QA, RELATIONS, count, rng, words)
        layout = retrieval.lay_out(held_out.QA, told.context, rng, words)
        return (retrieval.ask(told, layout, held_out.QA, answerable, rng, words),)

    return make


def _kits(count: int, rng: Random, words: Words) -> list[Kit]:
    return tool_scenes.declared_kits(TOOLS, count, rng, words, renamed=1.0)


def call(count: int) -> Make:
    """The right one of `count` tools, all under random names."""

    def make(rng: Random, words: Words) -> tuple[Example, ...]:
        kits = _kits(count, rng, words)
        use = rng.choice(kits).use(rng, words)
        return (tool_scenes.calling([kit.tool for kit in kits], use, None),)

    return make


def typed_call(kind: str) -> Make:
    """A call of one tool whose arguments are all of one type."""

    def make(rng: Random, words: Words) -> tuple[Example, ...]:
        kit = made_up_kit(TOOLS, rng, words, kind)
        return (tool_scenes.calling([kit.tool], kit.use(rng, words), None),)

    return make


def known_call(rng: Random, words: Words) -> tuple[Example, ...]:
    """A tool of the training data under its own name, among two."""
    first = known_kit(TOOLS, rng, words, 0.0)
    second = first
    while second.tool.name == first.tool.name:
        second = known_kit(TOOLS, rng, words, 0.0)
    tools = [first.tool, second.tool]
    rng.shuffle(tools)
    return (tool_scenes.calling(tools, first.use(rng, words), None),)


def undeclared(rng: Random, words: Words) -> tuple[Example, ...]:
    """One or two tools are declared, another is needed."""
    absent, *kits = _kits(rng.choice((2, 3)), rng, words)
    return (tool_scenes.refusing([kit.tool for kit in kits], absent.use(rng, words), None),)


def both_calls(rng: Random, words: Words) -> tuple[Example, ...]:
    """Two calls in one turn."""
    return (tool_scenes.two_calls(_kits(2, rng, words), SCENES, None, rng, words),)


def three_steps(rng: Random, words: Words) -> tuple[Example, ...]:
    """Three calls, one after the other's result, and the final answer."""
    return tool_scenes.loop(SCENES, 3, 0, rng, words)


def response(failed: bool) -> Make:
    """What the model says after a tool's response or error."""

    def make(rng: Random, words: Words) -> tuple[Example, ...]:
        kits = _kits(rng.choice((1, 2)), rng, words)
        use = rng.choice(kits).use(rng, words)
        before = tool_scenes.calling([kit.tool for kit in kits], use, None)
        if failed:
            return (tool_scenes.failing(before, use, SCENES, rng, words),)
        return (tool_scenes.answering(before, use),)

    return make


def fields(rng: Random, words: Words) -> tuple[Example, ...]:
    """JSON by a list of fields or a schema."""
    return json_fields.fields_scene(FIELDS, 1, 4, rng, words)


def repetition(longer: bool) -> Make:
    """A text to say back, of up to 9 words or more."""

    def make(rng: Random, words: Words) -> tuple[Example, ...]:
        while True:
            example = repeat.repetition(held_out.REPEAT_REQUESTS, None, rng, words)
            if (len(str(example.answer).split()) >= 10) == longer:
                return (example,)

    return make


def talk(rng: Random, words: Words) -> tuple[Example, ...]:
    """An exchange learnt by heart, asked for in other words."""
    asked, answer = rng.choice(held_out.TALK)
    messages = with_system(rng, words, [Message.user(asked)], 0.3)
    return (Example("small_talk", messages, answer),)


def remembered(rng: Random, words: Words) -> tuple[Example, ...]:
    """The user's name."""
    return (small_talk.remembered_name(held_out.INTRODUCTIONS, held_out.ASK_NAME, rng, words),)


def thinking(rng: Random, words: Words) -> tuple[Example, ...]:
    """Thinking is on: of a context question or a request for a tool."""
    make = facts(2) if rng.random() < 0.5 else call(1)
    return tuple(thoughtful(example) for example in make(rng, words))


ROWS: tuple[Row, ...] = (
    *(
        Row(f"context question, {count} fact{'s' * (count > 1)} of the kind asked", facts(count))
        for count in (1, 2, 4, 8)
    ),
    Row("context question, 4 facts, none answers it: says so", facts(4, answerable=False)),
    *(Row(f"tool call, {count} declared, random names", call(count)) for count in (1, 2, 4)),
    Row("the needed tool is not declared: does not call", undeclared, scoring=no_call),
    Row("the needed tool is not declared: says so", undeclared),
    Row("tool call, a tool of the training data, 2 declared", known_call),
    *(Row(f"tool call, arguments of type {kind}", typed_call(kind)) for kind in TYPES),
    Row("two calls in one turn", both_calls),
    Row("three-step tool loop to its final answer", three_steps),
    Row("answer after a tool response", response(failed=False)),
    Row("answer after a tool error", response(failed=True)),
    Row("JSON with fields of random names", fields),
    Row(
        "JSON with known fields, natural text",
        lambda r, w: (extract.extraction(held_out.EXTRACT, r, w),),
    ),
    Row("repeat, up to 9 words", repetition(False)),
    Row("repeat, 10-18 words (several canvases)", repetition(True)),
    Row("small talk (recall of fixed answers)", talk),
    Row("small talk, the user's name remembered", remembered),
    Row("thinking on: a thought, then the answer", thinking, scoring=thought_then_exact),
)

_TO_COMPARE: tuple[tuple[str, Make], ...] = (
    ("context question, 2 facts", facts(2)),
    ("tool call, 2 declared", call(2)),
    ("answer after a tool response", response(failed=False)),
    ("JSON with fields of random names", fields),
    ("repeat, up to 9 words", repetition(False)),
)
_POOLS = (("seen words", SEEN), ("unseen made-up words", MADE_UP), ("other scripts", SCRIPTS))
WORD_ROWS: tuple[Row, ...] = tuple(
    Row(f"{name}: {pool}", make, words) for name, make in _TO_COMPARE for pool, words in _POOLS
)
