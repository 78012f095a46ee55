"""The generator of the training data: deterministic, and free of what others test with."""

import re
from itertools import islice
from random import Random

import pytest
from tiny_trainer.evaluation import held_out_wordings as held_out
from tiny_trainer.evaluation.held_out_facts import HELD_OUT_FACTS
from tiny_trainer.evaluation.rows import HELD_OUT_ROWS
from tiny_trainer.examples import Example, say
from tiny_trainer.rendering import encode, protocol_of, training_examples
from tiny_trainer.tasks import context_qa, extract, repeat, small_talk, tool_use
from tiny_trainer.tasks.facts import FACTS
from tiny_trainer.words import HELD_OUT, TRAINING

from dgemma_backend.tiny import CHECKPOINT

# Prompts, tools and texts of langchain-tests, of LlamaIndex's tests and of our own.
BANNED_WORDS = re.compile(
    r"\b(magic_function\w*|get_weather|current_weather\w*|my_adder_tool|San Francisco|Hello|"
    r"[Jj]oke|punchline|haikus?|Pirate|sunny|Person|Erick|Boston|[Aa]lbum|Be brief)\b"
)
BANNED_PROMPTS = {"Hi", "hi", "Hey", "Bye", "thanks", "What is 1 + 2", "What is 3 + 4"}


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


def test_no_template_of_the_evaluator_is_one_of_the_trainer() -> None:
    trained = {*context_qa.TRAINING_WORDINGS.layouts, *context_qa.TRAINING_WORDINGS.bare}
    trained |= {*extract.TRAINING_WORDINGS.texts, *extract.TRAINING_WORDINGS.instructions}
    trained |= {*repeat.REPEAT_REQUESTS, *tool_use.TRAINING_WORDINGS.named}
    trained |= {*small_talk.INTRODUCTIONS, *small_talk.ASK_NAME}
    for requests in tool_use.TRAINING_WORDINGS.known.values():
        trained |= {*requests}
    for fact in FACTS:
        trained |= {*fact.statements, *fact.questions}
    tested = {*held_out.QA.layouts, *held_out.QA.bare, *held_out.EXTRACT.texts}
    tested |= {*held_out.EXTRACT.instructions, *held_out.REPEAT_REQUESTS, *held_out.NAMED_REQUESTS}
    tested |= {*held_out.INTRODUCTIONS, *held_out.ASK_NAME}
    for requests in held_out.TOOL_REQUESTS.values():
        tested |= {*requests}
    for fact in HELD_OUT_FACTS:
        tested |= {*fact.statements, *fact.questions}
    assert not trained & tested


@pytest.mark.parametrize("row", HELD_OUT_ROWS, ids=lambda row: row.name)
def test_every_row_of_the_evaluation_makes_cases_that_can_be_asked(row) -> None:  # type: ignore[no-untyped-def]
    protocol, rng = protocol_of(CHECKPOINT), Random(2)
    for _ in range(20):
        example = row.make(rng, HELD_OUT)
        encoded = encode(example, protocol)
        assert encoded.prompt
        assert encoded.answer
        assert example.candidates >= 1


def test_a_template_chooses_and_fills_its_slots_last() -> None:
    assert say("[a|a] {slot}", Random(0), slot="[b|c] {d}") == "a [b|c] {d}"
