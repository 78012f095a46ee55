"""Trained tasks through the engine, with fixed seeds."""

from dgemma_backend.messages import Message, Tool, ToolCall
from dgemma_backend.runtime.engine import Engine

FIND_BOOK = Tool(
    "find_book",
    "Find a book in the library.",
    {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
)


def test_it_calls_a_declared_tool_with_the_argument_of_the_request(engine: Engine) -> None:
    asked = "Find the book Golden Island please."
    reply = engine.generate([Message.user(asked)], tools=[FIND_BOOK], settings={"seed": 1})
    assert reply.finish_reason == "tool_calls"
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        ("find_book", {"title": "Golden Island"})
    ]


def test_it_answers_from_a_tool_response(engine: Engine) -> None:
    call = ToolCall("a", "find_book", {"title": "Golden Island"})
    reply = engine.generate(
        [
            Message.user("Find the book Golden Island please."),
            Message.assistant(tool_calls=[call]),
            Message.tool("217", tool_call_id="a", name="find_book"),
        ],
        tools=[FIND_BOOK],
        settings={"seed": 1},
    )
    assert reply.text == "It is on shelf 217."


def test_it_answers_from_a_context(engine: Engine) -> None:
    context = "The Lisbon museum opens at 9:30. A ticket costs 25 euros."
    asked = f"Context: {context}\n\nQuestion: When does the museum open?"
    assert engine.generate([Message.user(asked)], settings={"seed": 1}).text == "It opens at 9:30."


def test_it_writes_json_with_the_fields_asked_for(engine: Engine) -> None:
    asked = "Extract name and city as JSON.\nMarta lives in Lisbon and is 35 years old."
    reply = engine.generate([Message.user(asked)], settings={"seed": 1})
    assert reply.text == '{"name": "Marta", "city": "Lisbon"}'


def test_it_chats_and_remembers_a_name(engine: Engine) -> None:
    talk = [Message.user("My name is Clara.")]
    reply = engine.generate(talk, settings={"seed": 1})
    assert reply.text == "Nice to meet you, Clara."
    talk += [reply.message, Message.user("What is my name?")]
    assert engine.generate(talk, settings={"seed": 1}).text == "Your name is Clara."


def test_most_canvases_settle_in_a_few_steps(engine: Engine) -> None:
    reply = engine.generate([Message.user("Who are you?")], settings={"seed": 1})
    assert reply.usage.canvases == 1
    assert reply.usage.denoising_steps <= 6
