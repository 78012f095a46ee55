"""The rows of the results table: what is asked, in held-out words and wordings.

Every row says how well a guesser would do. `candidates` is the number of values in the prompt
that are of the kind asked for, `values` the number of ways to fill the answer with values of the
prompt; a guesser who knows the form of the answer is right once in so many times.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.evaluation import held_out_wordings as held_out
from tiny_trainer.examples import Example, one_of, say, starting_large, with_system
from tiny_trainer.tasks import context_qa, extract, repeat, small_talk, tool_use
from tiny_trainer.tasks.tool_kit import KNOWN_TOOLS
from tiny_trainer.words import Words

TOOLS = tool_use.ToolWordings(
    known=held_out.TOOL_REQUESTS,
    named=held_out.NAMED_REQUESTS,
    verbs=tuple("pick sort close print merge unlock".split()),
    nouns=tuple("ticket letter folder sensor ledger garage".split()),
    argument_names=tuple("city color weight priority topic limit".split()),
)


@dataclass(frozen=True)
class Row:
    """One row: `make` draws a case, `limit` marks what the model is known not to do."""

    name: str
    make: Callable[[Random, Words], Example]
    limit: bool = False


def _talk(rng: Random, words: Words) -> Example:
    asked, answer = rng.choice(held_out.TALK)
    return Example("small_talk", with_system(rng, [Message.user(asked)], 0.3), answer)


def _name(rng: Random, words: Words) -> Example:
    return small_talk.remembered_name(held_out.INTRODUCTIONS, held_out.ASK_NAME, rng, words)


def _question(low: int, high: int) -> Callable[[Random, Words], Example]:
    def make(rng: Random, words: Words) -> Example:
        while True:
            example = context_qa.context_question(held_out.QA, rng, words)
            if low <= example.values <= high:
                return example

    return make


def _several(count: int) -> Callable[[Random, Words], Example]:
    """`count` subjects with a fact of the same kind each; the question names one of them."""

    def make(rng: Random, words: Words) -> Example:
        fact = rng.choice(_ASKED_BY_NAME)
        subjects: dict[str, str] = {}
        while len(subjects) < count:
            subject = context_qa.subject_of(fact.domain, rng, words)[0]
            subjects[subject] = str(fact.draw(rng, words))
        told = [
            starting_large(one_of(_naming(fact.statements), rng, subject=subject, value=value))
            for subject, value in subjects.items()
        ]
        subject = rng.choice(list(subjects))
        question = one_of(_naming(fact.questions), rng, subject=subject)
        layout = rng.choice(held_out.QA.layouts)
        text = say(layout, rng, context=" ".join(told), question=starting_large(question))
        answer = say(fact.answer, rng, value=subjects[subject])
        return Example(
            "several_facts", (Message.user(text),), answer, candidates=count, values=count
        )

    return make


def _naming(templates: tuple[str, ...]) -> list[str]:
    return [each for each in templates if "{subject}" in each]


_ASKED_BY_NAME = [
    fact for fact in held_out.QA.facts if _naming(fact.statements) and _naming(fact.questions)
]


def _repetition(longer: bool) -> Callable[[Random, Words], Example]:
    def make(rng: Random, words: Words) -> Example:
        while True:
            example = repeat.repetition(held_out.REPEAT_REQUESTS, None, rng, words)
            if (len(str(example.answer).split()) >= 10) == longer:
                return example

    return make


def _wrong_tool(rng: Random, words: Words) -> Example:
    """Only another tool is declared; right would be not to call the missing one."""
    example = tool_use.tool_call(TOOLS, rng, words, named=False, two_tools=0.0)
    needed = example.tools[0].name
    other = rng.choice([tool for tool in KNOWN_TOOLS if tool.name != needed])
    return replace(example, tools=(other.declared(rng),))


HELD_OUT_ROWS: tuple[Row, ...] = (
    Row(
        "tool call, known tool, one declared",
        lambda r, w: tool_use.tool_call(TOOLS, r, w, named=False, two_tools=0.0),
    ),
    Row(
        "tool call, known tool, two declared",
        lambda r, w: tool_use.tool_call(TOOLS, r, w, named=False, two_tools=1.0),
    ),
    Row(
        "tool call, unseen tool that the request names",
        lambda r, w: tool_use.tool_call(TOOLS, r, w, named=True, two_tools=0.0),
    ),
    Row(
        "answer after a tool response, known tool",
        lambda r, w: tool_use.tool_response(TOOLS, r, w, named=False),
    ),
    Row(
        "answer after a tool response, unseen tool",
        lambda r, w: tool_use.tool_response(TOOLS, r, w, named=True),
    ),
    Row("fields as JSON", lambda r, w: extract.extraction(held_out.EXTRACT, r, w)),
    Row("context question, the context is one fact", _question(1, 1)),
    Row("context question, 2-3 facts, one of the kind asked", _question(2, 3)),
    Row("context question, 4-5 facts, one of the kind asked", _question(4, 5)),
    Row("repeat, up to 9 words", _repetition(False)),
    Row("repeat, 10-18 words (two or more canvases)", _repetition(True)),
    Row("small talk (recall of fixed answers)", _talk),
    Row("small talk, the user's name remembered", _name),
    Row("two facts of the same kind", _several(2), limit=True),
    Row("four facts of the same kind", _several(4), limit=True),
    Row("the needed tool is not declared: calls it all the same", _wrong_tool, limit=True),
)

# The same tasks in the wordings of the training data, words still held out: what wording costs.
TRAINING_WORDING_ROWS: tuple[Row, ...] = (
    Row("tool call", lambda r, w: tool_use.tool_call(tool_use.TRAINING_WORDINGS, r, w, False)),
    Row(
        "answer after a tool response",
        lambda r, w: tool_use.tool_response(tool_use.TRAINING_WORDINGS, r, w, False),
    ),
    Row("fields as JSON", extract.training_extraction),
    Row(
        "context question, one fact of the kind asked",
        lambda r, w: context_qa.context_question(context_qa.TRAINING_WORDINGS, r, w),
    ),
    Row("repeat", repeat.training_repetition),
)


def same_answer(example: Example, text: str, calls: list[tuple[str, dict[str, object]]]) -> bool:
    """Exactly the expected text, or exactly the expected calls and no text beside them."""
    if isinstance(example.answer, str):
        return text == example.answer and not calls
    expected = [(call.name, dict(call.arguments)) for call in example.answer]
    return calls == expected and not text.strip()


def shown(example: Example) -> str:
    """The expected answer as one line."""
    if isinstance(example.answer, str):
        return example.answer
    return "; ".join(f"{call.name} {json.dumps(dict(call.arguments))}" for call in example.answer)
