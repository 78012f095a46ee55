"""The `llm` plugin over a scripted engine; test_versions.py runs this with the oldest `llm`."""

from collections.abc import Callable
from typing import Any

import llm
import pytest
from llm.parts import ReasoningPart
from pydantic import BaseModel

from dgemma_backend import Engine, Message, ScriptedEngine, ToolCall
from dgemma_backend.runtime.request import Request
from llm_dgemma.models import AsyncDgemma, Dgemma

Answer = Callable[[Request], Message]


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def reacting(request: Request) -> Message:
    asked = request.messages[-1]
    if asked.role == "tool":
        return Message.assistant(f"It is {asked.text}.")
    if request.response_format is not None:
        return Message.assistant('{"name": "Ada"}')
    if request.tools:
        return Message.assistant(tool_calls=[ToolCall("", "add", {"a": 1, "b": "2"})])
    thought = "What do they want?" if request.settings.thinking else None
    return Message.assistant(f"You said: {asked.text}", reasoning=thought)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(reacting, canvas_length=3)


@pytest.fixture
def model(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> Dgemma:
    monkeypatch.setattr(Dgemma, "open", lambda self, prompt: engine)
    return Dgemma("dgemma-test", "tiny")


@pytest.fixture
def async_model(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncDgemma:
    monkeypatch.setattr(AsyncDgemma, "open", lambda self, prompt: engine)
    return AsyncDgemma("dgemma-test", "tiny")


def test_an_answer_comes_in_chunks_and_with_its_usage(model: Dgemma) -> None:
    response = model.prompt("Hello there, how are you?")
    chunks = list(response)
    assert "".join(chunks) == "You said: Hello there, how are you?"
    assert len(chunks) > 2
    usage = response.usage()
    assert usage.input is not None
    assert usage.input > 0
    assert usage.details is not None
    assert usage.details["canvases"] > 2
    assert response.response_json is not None
    assert response.response_json["finish_reason"] == "stop"


def test_options_reach_the_engine(model: Dgemma, engine: ScriptedEngine) -> None:
    model.prompt("Hi", max_tokens=4, temperature=0.5, stop="now", seed=3, device="cpu").text()
    settings = engine.requests[-1].settings
    assert (settings.max_tokens, settings.temperature, settings.seed) == (4, 0.5, 3)
    assert settings.stop == ("now",)


def test_a_bad_or_unknown_option_is_refused_by_name(model: Dgemma) -> None:
    with pytest.raises(ValueError, match="temperature=7.0"):
        model.prompt("Hi", temperature=7).text()
    with pytest.raises(ValueError, match="temprature"):
        model.prompt("Hi", temprature=0).text()


def test_thoughts_are_parts_and_not_text(model: Dgemma) -> None:
    response = model.prompt("Hi", thinking=True)
    assert response.text() == "You said: Hi"
    parts = [part for message in response.messages() for part in message.parts]
    thoughts = [part.text for part in parts if isinstance(part, ReasoningPart)]
    assert "".join(thoughts).strip() == "What do they want?"


def test_a_conversation_is_remembered(model: Dgemma, engine: ScriptedEngine) -> None:
    talk = model.conversation()
    talk.prompt("One", system="Be kind.").text()
    talk.prompt("Two").text()
    said = [(message.role, message.text) for message in engine.requests[-1].messages]
    assert said == [
        ("system", "Be kind."),
        ("user", "One"),
        ("assistant", "You said: One"),
        ("user", "Two"),
    ]


def test_a_tool_is_called_and_its_result_used(model: Dgemma, engine: ScriptedEngine) -> None:
    chain = model.conversation(tools=[add]).chain("Add 1 and 2")
    assert "".join(chain) == "It is 3."  # "2" became a number, or add would have said "12"
    call, result = engine.requests[-1].messages[-2:]
    assert call.tool_calls[0].id == result.tool_call_id
    assert "response:add{value:" in engine.prompt_of()


def test_a_schema_is_enforced_and_shown_as_a_response_format(
    model: Dgemma, engine: ScriptedEngine
) -> None:
    class Person(BaseModel):
        name: str

    assert model.prompt("Who?", schema=Person).text() == '{"name": "Ada"}'
    wanted = engine.requests[-1].response_format
    assert wanted is not None
    assert (wanted.kind, wanted.on_unsupported) == ("json_schema", "validate")
    assert "name" in wanted.value["properties"]


def test_an_unfinished_call_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = ["<|tool_call>", "call:add{a:1"]
    engine = ScriptedEngine(lambda request: pieces, canvas_length=3)
    monkeypatch.setattr(Dgemma, "open", lambda self, prompt: engine)
    with pytest.raises(llm.ModelError, match="call of 'add' and did not finish it"):
        Dgemma("dgemma-test", "tiny").prompt("Add", tools=[add]).text()


async def test_the_async_model_answers_streams_and_calls(async_model: AsyncDgemma) -> None:
    assert await async_model.prompt("Hello").text() == "You said: Hello"
    chunks = [chunk async for chunk in async_model.prompt("Hello there, you")]
    assert "".join(chunks) == "You said: Hello there, you"
    assert len(chunks) > 2
    chain = async_model.conversation(tools=[add]).chain("Add 1 and 2")
    assert "".join([chunk async for chunk in chain]) == "It is 3."


def test_an_engine_is_opened_once_for_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []

    def open_engine(model: str, **options: Any) -> Engine:
        opened.append({"model": model, **options})
        return ScriptedEngine(reacting)

    monkeypatch.setattr("dgemma_backend.open_engine", open_engine)
    model = Dgemma("dgemma-tiny", "tiny")
    for _ in range(2):
        model.prompt("Hi").text()
    model.prompt("Hi", quantization="int4").text()
    assert opened == [
        {"model": "tiny", "device": "auto", "quantization": None},
        {"model": "tiny", "device": "auto", "quantization": "int4"},
    ]
