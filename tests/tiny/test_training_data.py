"""The generator of the training data: deterministic, and free of what others test with."""

import re
from dataclasses import fields, is_dataclass, replace
from itertools import islice
from random import Random

import pytest
from tiny_trainer.evaluation import held_out_wordings as held_out
from tiny_trainer.evaluation.held_out_facts import HELD_OUT_FACTS
from tiny_trainer.evaluation.held_out_scenes import FIELDS, RELATIONS, SCENES, TOOLS
from tiny_trainer.evaluation.rows import ROWS, WORD_ROWS
from tiny_trainer.evaluation.scoring import exact, no_call, thought_then_exact
from tiny_trainer.examples import Example, say
from tiny_trainer.rendering import encode, protocol_of, training_examples
from tiny_trainer.scripts import HELD_OUT_FOREIGN
from tiny_trainer.tasks import (
    context_qa,
    extract,
    json_fields,
    repeat,
    retrieval,
    small_talk,
    tool_making,
    tool_scenes,
)
from tiny_trainer.tasks.facts import FACTS
from tiny_trainer.tasks.tool_scenes import NO_TOOL
from tiny_trainer.words import HELD_OUT, TRAINING

from dgemma_backend.messages import Message, Reply, ToolCall, Usage
from dgemma_backend.tiny import CHECKPOINT

# Prompts, tools and texts of langchain-tests, of LlamaIndex's tests and of our own.
BANNED_WORDS = re.compile(
    r"\b(magic_function\w*|get_weather|current_weather\w*|my_adder_tool|San Francisco|Hello|"
    r"[Jj]oke|punchline|haikus?|Pirate|sunny|Person|Erick|Boston|[Aa]lbum|Be brief)\b"
)
BANNED_PROMPTS = {"Hi", "hi", "Hey", "Bye", "thanks", "What is 1 + 2", "What is 3 + 4"}


SLOTS = {
    name: "{" + name + "}"
    for name in (
        "subject value relation context question small tool arguments verb noun key request text "
        "fields first second third name age city job color item count price day date time code "
        "year title to guests amount currency artist song end start room word language topic plain "
        "number reason"
    ).split()
}


def reply(text: str = "", calls: tuple[ToolCall, ...] = (), reasoning: str = "") -> Reply:
    return Reply(text, reasoning, calls, (), "stop", Usage(1, 1), 0, "tiny")


def some_examples(count: int) -> list[Example]:
    return list(islice(training_examples("a test"), count))


def texts_of(example: Example) -> list[str]:
    texts = [message.text for message in example.messages] + [str(example.answer)]
    return texts + [f"{tool.name} {tool.description}" for tool in example.tools]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return some_examples(4000)


def test_the_same_seed_gives_the_same_examples(examples: list[Example]) -> None:
    assert some_examples(200) == examples[:200]


def test_nothing_that_others_test_with_is_trained_on(examples: list[Example]) -> None:
    for example in examples:
        for text in texts_of(example):
            assert not BANNED_WORDS.search(text), text
            assert text not in BANNED_PROMPTS


def test_no_held_out_word_is_trained_on(examples: list[Example]) -> None:
    held = set(HELD_OUT.spelt())
    for example in examples:
        for text in texts_of(example):
            assert not held & set(re.findall(r"[a-z]+", text.lower())), text


def test_held_out_numbers_and_training_numbers_are_disjoint() -> None:
    rng = Random(1)
    trained = {TRAINING.integer(rng, 10, 500) for _ in range(3000)}
    tested = {HELD_OUT.integer(rng, 10, 500) for _ in range(3000)}
    assert not trained & tested


def test_no_name_of_the_evaluator_in_another_script_is_trained_on(examples: list[Example]) -> None:
    for example in examples:
        for text in texts_of(example):
            assert not set(HELD_OUT_FOREIGN) & set(re.findall(r"\w+", text)), text


def templates_of(*sources: object) -> set[str]:
    """All strings in dataclasses of templates; mappings and tuples are gone through."""
    found: set[str] = set()
    for source in sources:
        if isinstance(source, str):
            found.add(source)
        elif isinstance(source, dict):
            found |= templates_of(*source.values())
        elif isinstance(source, tuple | list | frozenset | set):
            found |= templates_of(*source)
        elif is_dataclass(source):
            found |= templates_of(*(getattr(source, each.name) for each in fields(source)))
    return {each for each in found if " " in each}  # names of fields and tools are not templates


def test_no_template_of_the_evaluator_is_one_of_the_trainer() -> None:
    qa, relations = context_qa.TRAINING_WORDINGS, retrieval.TRAINING_RELATIONS
    trained = templates_of(
        (qa.layouts, qa.system_layouts, qa.bare, qa.fillers, TRAINING.prompts),
        (relations.statements, relations.questions),
        [(fact.statements, fact.questions) for fact in FACTS],
        (extract.TRAINING_WORDINGS.texts, extract.TRAINING_WORDINGS.instructions),
        (repeat.REPEAT_REQUESTS, small_talk.INTRODUCTIONS, small_talk.ASK_NAME),
        (json_fields.TRAINING_FIELDS.facts, json_fields.TRAINING_FIELDS.requests),
        tool_making.TRAINING_WORDINGS,
        (tool_scenes.TRAINING_SCENES.both, tool_scenes.TRAINING_SCENES.loops),
    )
    tested = templates_of(
        (held_out.QA.layouts, held_out.QA.system_layouts, held_out.QA.bare, held_out.QA.fillers),
        (RELATIONS.statements, RELATIONS.questions, HELD_OUT.prompts),
        [(fact.statements, fact.questions) for fact in HELD_OUT_FACTS],
        (held_out.EXTRACT.texts, held_out.EXTRACT.instructions, held_out.EXTRACT.systems),
        (held_out.REPEAT_REQUESTS, held_out.INTRODUCTIONS, held_out.ASK_NAME),
        (FIELDS.facts, FIELDS.requests, TOOLS, SCENES.both, SCENES.loops),
    )
    assert len(trained) > 200
    assert len(tested) > 100
    written = {say(each, Random(seed), **SLOTS) for each in trained for seed in range(20)}
    assert sorted((trained | written) & tested) == []


@pytest.mark.parametrize("row", [*ROWS, *WORD_ROWS], ids=lambda row: row.name)
def test_every_row_of_the_evaluation_makes_cases_that_can_be_asked(row) -> None:  # type: ignore[no-untyped-def]
    protocol, rng = protocol_of(CHECKPOINT), Random(2)
    for _ in range(20):
        for example in row.make(rng, row.words):
            encoded = encode(example, protocol)
            assert encoded.prompt
            assert encoded.answer
            assert example.candidates >= 1


def test_a_right_answer_counts_and_a_wrong_one_does_not() -> None:
    call = ToolCall("a", "find", {"count": 2})
    calling = Example("tool_call", (Message.user("Find 2."),), (call,))
    assert exact(calling, reply(calls=(call,)))
    assert not exact(calling, reply(calls=(ToolCall("a", "find", {"count": "2"}),)))
    assert not exact(calling, reply(calls=(call,), text="Well."))
    refusing = Example("no_tool", (Message.user("Find 2."),), NO_TOOL)
    assert exact(refusing, reply(text=NO_TOOL))
    assert not exact(refusing, reply(text=NO_TOOL, reasoning="Nobody asked me to think."))
    assert no_call(refusing, reply(text="Hm."))
    assert not no_call(refusing, reply(calls=(call,)))
    thinking = replace(refusing, thinking=True)
    assert thought_then_exact(thinking, reply(text=NO_TOOL, reasoning="No tool fits."))
    assert not thought_then_exact(thinking, reply(text=NO_TOOL))


def test_a_template_chooses_and_fills_its_slots_last() -> None:
    assert say("[a|a] {slot}", Random(0), slot="[b|c] {d}") == "a [b|c] {d}"
