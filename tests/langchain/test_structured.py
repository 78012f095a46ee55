"""`with_structured_output` and `response_format`: every method, every kind of schema."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from dgemma_backend import ResponseFormat, ToolChoice
from langchain_dgemma import ChatDiffusionGemma

Scripted = Callable[..., Any]


class Trip(BaseModel):
    """A trip."""

    to: str = Field(description="where it goes")
    nights: int
    tags: list[str] = []


class OldTrip(BaseModelV1):
    """A trip."""

    to: str
    nights: int


class TypedTrip(TypedDict):
    """A trip."""

    to: Annotated[str, ..., "where it goes"]
    nights: int


JSON_TRIP = Trip.model_json_schema()
OPENAI_TRIP = {"name": "Trip", "description": "A trip.", "parameters": JSON_TRIP}
SCHEMAS = [Trip, OldTrip, TypedTrip, JSON_TRIP, OPENAI_TRIP]
METHODS = ["json_schema", "function_calling", "json_mode"]
ASKED = "I go to Lisbon for 4 nights. Answer with 'to' and 'nights'."


def model(**options: Any) -> ChatDiffusionGemma:
    return ChatDiffusionGemma(model="a", engine="obedient", **options)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", SCHEMAS)
async def test_every_schema_comes_out_as_what_it_describes(
    obedient: Any, schema: Any, method: str, version: str, thinking: bool
) -> None:
    made = model(thinking=thinking, output_version=version)
    asking = made.with_structured_output(schema, method=method)
    trip = asking.invoke("I go to Lisbon for 4 nights.")
    if isinstance(schema, type) and issubclass(schema, BaseModel | BaseModelV1):
        assert isinstance(trip, schema)
        trip = trip.model_dump() if isinstance(trip, BaseModel) else trip.dict()
    assert (trip["to"], trip["nights"]) == ("Lisbon", 4)
    streamed = list(asking.stream("I go to Lisbon for 4 nights."))
    assert streamed
    last = streamed[-1]
    assert (last if isinstance(last, dict) else vars(last))["nights"] == 4
    assert type(await asking.ainvoke("To Lisbon for 4 nights.")) is type(last)


@pytest.mark.parametrize("schema", [None, dict])
def test_json_mode_gives_any_object_and_pydantic_out_for_pydantic_in(
    obedient: Any, schema: Any
) -> None:
    class Pair(BaseModel):
        to: str
        nights: str

    asking = model().with_structured_output(schema and Pair, method="json_mode")
    pair = asking.invoke(ASKED)
    assert isinstance(pair, Pair if schema else dict)
    (request,) = obedient.opened[0].requests
    assert request.response_format == ResponseFormat.json()
    assert "schema" not in obedient.opened[0].prompt_of()


@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("method", METHODS)
def test_strict_refuses_what_decoding_cannot_guarantee(
    obedient: Any, method: str, strict: bool | None
) -> None:
    model().with_structured_output(Trip, method=method, strict=strict, include_raw=True).invoke("x")
    (request,) = obedient.opened[0].requests
    if method == "json_schema":
        assert request.response_format.on_unsupported == ("raise" if strict else "validate")
        assert request.response_format.value == JSON_TRIP
    elif method == "function_calling":
        assert request.tool_choice == ToolChoice.named("Trip", parallel=False)


def test_the_schema_is_told_to_the_model_too_unless_switched_off(obedient: Any) -> None:
    model().with_structured_output(Trip).invoke([("system", "Be brief."), ("user", "hi")])
    engine = obedient.opened[0]
    assert "where it goes" in engine.prompt_of()
    assert engine.prompt_of().startswith("<bos><|turn>system\nBe brief.\n\nAnswer with JSON that")
    model(schema_in_prompt=False).with_structured_output(Trip).invoke("hi")
    assert "where it goes" not in engine.prompt_of()


def test_the_raw_message_and_a_parsing_error_are_given_instead_of_raised(
    scripted: Scripted,
) -> None:
    broken = ChatDiffusionGemma(engine=scripted(['{"to": "Lisbon"}', "<turn|>"]))
    given = broken.with_structured_output(Trip, include_raw=True).invoke("hi")
    assert isinstance(given["raw"], AIMessage)
    assert given["parsed"] is None
    assert isinstance(given["parsing_error"], exceptions.OutputParserException)
    with pytest.raises(exceptions.OutputParserException, match="nights"):
        broken.with_structured_output(Trip).invoke("hi")


def test_an_answer_without_text_says_so(scripted: Scripted) -> None:
    engine = scripted(["<|channel>", "thought\nfor ever and ever"])
    asking = ChatDiffusionGemma(engine=engine, thinking=True, max_tokens=15).with_structured_output(
        Trip
    )
    with pytest.raises(exceptions.OutputParserException, match="no text to read.*thinking_budget"):
        asking.invoke("hi")


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def test_tools_may_stand_beside_a_schema(obedient: Any) -> None:
    asking = model().with_structured_output(Trip, tools=[weather], include_raw=True)
    called = asking.invoke("What is the weather in Lisbon?")
    assert called["raw"].tool_calls[0]["args"] == {"city": "Lisbon"}
    assert (called["parsed"], called["parsing_error"]) == (None, None)
    assert asking.invoke("I go to Lisbon for 4 nights.")["parsed"].nights == 4


FORMATS: list[tuple[Any, ResponseFormat | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, ResponseFormat.json()),
    (
        {"type": "json_schema", "json_schema": {"name": "t", "schema": JSON_TRIP, "strict": True}},
        ResponseFormat.json_schema(JSON_TRIP),
    ),
    (
        {"type": "json_schema", "name": "t", "schema": JSON_TRIP},
        ResponseFormat.json_schema(JSON_TRIP, on_unsupported="validate"),
    ),
    (Trip, ResponseFormat.json_schema(JSON_TRIP, on_unsupported="validate")),
    (JSON_TRIP, ResponseFormat.json_schema(JSON_TRIP, on_unsupported="validate")),
    (ResponseFormat.choices(["a", "b"]), ResponseFormat.choices(["a", "b"])),
]


@pytest.mark.parametrize(("given", "wanted"), FORMATS)
def test_response_formats_are_understood_in_every_form(
    scripted: Scripted, given: Any, wanted: ResponseFormat | None
) -> None:
    engine = scripted(["{}", "<turn|>"])
    ChatDiffusionGemma(engine=engine).invoke("hi", response_format=given)
    ChatDiffusionGemma(engine=engine).bind_tools([], response_format=given).invoke("hi")
    assert [request.response_format for request in engine.requests] == [wanted, wanted]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.with_structured_output(Trip, method="yaml"), "method='yaml' does not exist"),
        (lambda m: m.with_structured_output(None), "needs a schema"),
        (lambda m: m.with_structured_output(3), "3 is no schema"),
        (lambda m: m.with_structured_output(Trip, method="json_mode", tools=[weather]),
         "beside method='json_schema' only"),
        (lambda m: m.invoke("hi", response_format={"type": "json_schema"}), "has no schema"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(
    scripted: Scripted, call: Callable[[ChatDiffusionGemma], Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call(ChatDiffusionGemma(engine=scripted(["{}", "<turn|>"])))
    assert isinstance(caught.value, exceptions.ModelInvalidRequestError)
