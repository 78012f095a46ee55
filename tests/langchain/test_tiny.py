"""The adapter over the embedded model: real tokens, real denoising."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic as now
from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_dgemma import ChatDiffusionGemma

PROMPT = ChatPromptTemplate([("user", "Context: {context}\n\nQuestion: {question}")])
ASKED = {
    "context": "The Larkfeld Museum was founded by Odette Marsh.",
    "question": "Who founded the Larkfeld Museum?",
}
FOUNDED = "It was founded by Odette Marsh."


@pytest.fixture(scope="module")
def tiny() -> ChatDiffusionGemma:
    return ChatDiffusionGemma(model="tiny", temperature=0, device="cpu")


async def test_a_chain_is_answered_the_same_way_however_it_is_asked(
    tiny: ChatDiffusionGemma,
) -> None:
    chain = PROMPT | tiny | StrOutputParser()
    assert chain.invoke(ASKED) == FOUNDED
    assert "".join(chain.stream(ASKED)) == FOUNDED
    assert await chain.ainvoke(ASKED) == FOUNDED
    assert "".join([text async for text in chain.astream(ASKED)]) == FOUNDED
    assert chain.batch([ASKED] * 3) == [FOUNDED] * 3


def test_models_with_the_same_name_share_their_weights(tiny: ChatDiffusionGemma) -> None:
    twin = ChatDiffusionGemma(model="tiny", device="cpu", max_tokens=4)
    assert twin._open_engine("tiny") is tiny._open_engine("tiny")
    message = twin.invoke(PROMPT.invoke(ASKED))
    assert message.response_metadata["finish_reason"] == "length"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 4


def test_the_same_seed_gives_the_same_answer(tiny: ChatDiffusionGemma) -> None:
    texts = {tiny.invoke("Tell me something.", temperature=1.0, seed=5).text for _ in range(3)}
    assert len(texts) == 1


def test_the_model_calls_a_tool_and_answers_from_its_result(tiny: ChatDiffusionGemma) -> None:
    @tool
    def gather_pebble(owner: str) -> str:
        """Gather a pebble."""
        return "Granada" if owner else ""

    bound = tiny.bind_tools([gather_pebble])
    asked = HumanMessage('Call gather_pebble with owner "Odette".')
    called = bound.invoke([asked])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("gather_pebble", {"owner": "Odette"})
    assert called.response_metadata["finish_reason"] == "tool_calls"
    result = gather_pebble.invoke(call)
    assert isinstance(result, ToolMessage)
    assert bound.invoke([asked, called, result]).text == "The result is Granada."


class Trip(BaseModel):
    """A trip."""

    to: str = Field(description="where it goes")
    nights: int = Field(ge=1, le=30)
    by: Literal["car", "train"]


QUICK: Any = {"max_denoising_steps": 2, "max_tokens": 64, "temperature": 1.0}


@pytest.mark.slow
def test_structured_output_is_valid_for_two_hundred_seeds(tiny: ChatDiffusionGemma) -> None:
    made = tiny.model_copy(update={**QUICK, "max_denoising_steps": 1})
    valid = 0
    for seed in range(200):
        made.seed = seed
        trip = made.with_structured_output(Trip, strict=True).invoke("I go to Lisbon for 4 nights.")
        valid += isinstance(trip, Trip) and 1 <= trip.nights <= 30
    assert valid == 200


@tool
def find_table(seats: int) -> str:
    """Find a table."""
    return f"table for {seats}"


@tool
def find_room(town: str, beds: int) -> str:
    """Find a room."""
    return f"room with {beds} beds in {town}"


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structure_holds_with_thinking_too(
    tiny: ChatDiffusionGemma, method: str, thinking: bool
) -> None:
    options = {**QUICK, "thinking": thinking, "thinking_budget": 16 if thinking else None}
    made = tiny.model_copy(update={**options, "max_tokens": 128, "seed": 3})
    given = made.with_structured_output(Trip, method=method, include_raw=True).invoke("To Lisbon.")
    assert isinstance(given["parsed"], Trip), given
    assert given["parsing_error"] is None


@pytest.mark.parametrize("choice", ["find_room", "any"])
def test_a_forced_call_has_the_arguments_of_its_tool(tiny: ChatDiffusionGemma, choice: str) -> None:
    made = tiny.model_copy(update={**QUICK, "seed": 3})
    bound = made.bind_tools([find_table, find_room], tool_choice=choice, parallel_tool_calls=False)
    message = bound.invoke("Hello!")
    (call,) = message.tool_calls
    assert call["name"] == choice or choice == "any"
    if call["name"] == "find_room":
        assert set(call["args"]) == {"town", "beds"}
        assert isinstance(call["args"]["beds"], int)
    assert message.invalid_tool_calls == []
    assert message.response_metadata["finish_reason"] == "tool_calls"


def test_with_tools_and_a_form_an_answer_is_calls_or_that_form(tiny: ChatDiffusionGemma) -> None:
    for seed in range(10):
        made = tiny.model_copy(update={**QUICK, "seed": seed})
        bound = made.bind_tools([find_table], response_format=Trip)
        message = bound.invoke("A table for 4, or a trip?")
        if not message.tool_calls:
            Trip.model_validate_json(message.text)
        assert message.invalid_tool_calls == []


async def test_cancelling_stops_the_model_within_a_step(tiny: ChatDiffusionGemma) -> None:
    steps: list[float] = []
    made = tiny.model_copy(
        update={"stop_rule": "never", "max_tokens": 512, "on_draft": lambda _: steps.append(now())}
    )
    task = asyncio.create_task(made.ainvoke("Tell me something."))
    while len(steps) < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    taken = len(steps)
    began = now()
    assert (await tiny.ainvoke("Hello!", max_tokens=4)).usage_metadata  # the engine is free again
    assert len(steps) == taken
    assert now() - began < 5


def test_company_changes_no_answer(tiny: ChatDiffusionGemma) -> None:
    made = tiny.model_copy(update={**QUICK, "max_tokens": 32, "seed": 11})
    asked: list[Any] = [f"Call me {name}." for name in ("Odette", "Magnus", "Ines", "Tove")]
    serial = [made.invoke(each).text for each in asked]
    assert [message.text for message in made.batch(asked)] == serial
    with ThreadPoolExecutor(16) as threads:
        together = [message.text for message in threads.map(made.invoke, asked * 4)]
    assert together == serial * 4
