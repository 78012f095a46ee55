"""Tools and tool choices: in every form they come, as the engine gets them."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.runnables import RunnableBinding, RunnableLambda
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from dgemma_backend import ToolChoice
from langchain_dgemma import ChatDiffusionGemma
from langchain_dgemma.tools import to_tools

Scripted = Callable[..., Any]
HELLO = ["Hello", "<turn|>"]


class Booking(BaseModel):
    """Book a table."""

    seats: int = Field(description="How many")
    notes: list[str] | None = None


class OldBooking(BaseModelV1):
    """Book a table."""

    seats: int


class TypedBooking(TypedDict):
    """Book a table."""

    seats: int


@tool
def booking(seats: int) -> str:
    """Book a table."""
    return str(seats)


@tool
def flying(to: str) -> str:
    """Book a flight."""
    return to


def function_booking(seats: int) -> str:
    """Book a table."""
    return str(seats)


def _seated(given: TypedBooking) -> str:
    return str(given["seats"])


SCHEMA = {"type": "object", "properties": {"seats": {"type": "integer"}}, "required": ["seats"]}
FORMS = [
    Booking,
    OldBooking,
    TypedBooking,
    booking,
    function_booking,
    {"title": "Booking", "description": "Book a table.", **SCHEMA},
    {"name": "Booking", "description": "Book a table.", "parameters": SCHEMA},
    {"name": "Booking", "description": "Book a table.", "input_schema": SCHEMA},
    {"type": "function", "function": {"name": "Booking", "description": "Book a table.",
                                      "parameters": SCHEMA}},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_tools_are_declared_in_whatever_form_they_come(scripted: Scripted, form: Any) -> None:
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine).bind_tools([form]).invoke("hi")
    (declared,) = to_tools([form])
    seen = engine.prompt_of()
    assert f'<|tool>declaration:{declared.name}{{description:<|"|>Book a table.<|"|>' in seen
    assert 'type:<|"|>INTEGER<|"|>' in seen


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_a_runnable_is_a_tool_too(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    made = RunnableLambda(_seated).as_tool(name="seat", description="Find a seat.")
    ChatDiffusionGemma(engine=engine).bind_tools([made]).invoke("hi")
    assert "declaration:seat{" in engine.prompt_of()


def test_a_tool_without_arguments_has_an_empty_object() -> None:
    (declared,) = to_tools([{"name": "now", "description": "The time."}])
    assert declared.parameters == {"type": "object", "properties": {}}


def test_a_tool_that_only_a_remote_provider_could_run_is_refused() -> None:
    with pytest.raises(exceptions.ModelInvalidRequestError, match="runs at a remote provider"):
        ChatDiffusionGemma().bind_tools([{"type": "web_search_preview"}])


def test_arguments_take_the_types_of_the_bound_tool(scripted: Scripted) -> None:
    answer = ["<|tool_call>", "call:booking{seats:", '<|"|>', "4", '<|"|>', "}", "<tool_call|>"]
    model = ChatDiffusionGemma(engine=scripted([*answer, "<|tool_response>"])).bind_tools([booking])
    (call,) = model.invoke("hi").tool_calls
    assert (call["name"], call["args"]) == ("booking", {"seats": 4})
    assert booking.invoke(call).content == "4"


NAMED = ToolChoice.named("flying")
CHOICES: list[tuple[Any, ToolChoice | None]] = [
    (None, None),
    ("auto", None),
    (False, None),
    ({"type": "auto"}, None),
    ("any", ToolChoice("required")),
    ("required", ToolChoice("required")),
    (True, ToolChoice("required")),
    ({"type": "any"}, ToolChoice("required")),
    ("none", ToolChoice("none")),
    ({"type": "none"}, ToolChoice("none")),
    ("flying", NAMED),
    ({"type": "tool", "name": "flying"}, NAMED),
    ({"type": "function", "function": {"name": "flying"}}, NAMED),
    ({"type": "function", "name": "flying"}, NAMED),
]


@pytest.mark.parametrize(("choice", "asked"), CHOICES)
def test_every_form_of_tool_choice_reaches_the_engine(
    scripted: Scripted, choice: Any, asked: ToolChoice | None
) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    bound = model.bind_tools([booking, flying], tool_choice=choice)
    assert isinstance(bound, RunnableBinding)
    bound.invoke("hi")
    model.invoke("hi", tools=[booking, flying], tool_choice=choice)
    assert [request.tool_choice for request in engine.requests] == [asked, asked]
    told = "declaration:booking" in engine.prompt_of()
    assert told == (asked is None or asked.mode != "none")


def test_a_named_tool_is_forced_also_where_it_is_listed_second(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    bound = ChatDiffusionGemma(engine=engine).bind_tools([booking, flying], tool_choice="flying")
    bound.invoke("hi")
    assert engine.requests[0].tool_choice == ToolChoice.named("flying")


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        (None, ToolChoice("auto", parallel=False)),
        ("any", ToolChoice("required", parallel=False)),
        ("flying", ToolChoice.named("flying", parallel=False)),
    ],
)
def test_parallel_calls_can_be_switched_off(
    scripted: Scripted, choice: Any, asked: ToolChoice
) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    model.bind_tools([booking, flying], tool_choice=choice, parallel_tool_calls=False).invoke("hi")
    model.bind_tools([booking, flying], tool_choice=choice, parallel_tool_calls=True).invoke("hi")
    first, second = (request.tool_choice for request in engine.requests)
    assert first == asked
    assert second is None or second.parallel


@pytest.mark.parametrize("choice", ["rowing", {"type": "tool", "name": "rowing"}])
def test_an_unknown_tool_is_refused_when_it_is_bound(choice: Any) -> None:
    with pytest.raises(ValueError, match="is none of the tools: booking") as caught:
        ChatDiffusionGemma().bind_tools([booking], tool_choice=choice)
    assert isinstance(caught.value, exceptions.ModelInvalidRequestError)


@pytest.mark.parametrize("strict", [None, False, True])
def test_strict_is_understood_because_arguments_keep_to_the_schema_anyway(
    scripted: Scripted, strict: bool | None
) -> None:
    engine = scripted(HELLO)
    bound = ChatDiffusionGemma(engine=engine).bind_tools([booking], strict=strict)
    assert bound.invoke("hi").content == "Hello"


def test_a_response_format_may_stand_beside_tools(scripted: Scripted) -> None:
    engine = scripted(['{"seats": 4}', "<turn|>"])
    model = ChatDiffusionGemma(engine=engine)
    bound = model.bind_tools([flying], response_format=Booking)
    assert bound.invoke("hi").content == '{"seats": 4}'
    (request,) = engine.requests
    assert request.response_format.value == Booking.model_json_schema()
    assert [each.name for each in request.tools] == ["flying"]
    assert "When you answer without calling a tool" in engine.prompt_of()
