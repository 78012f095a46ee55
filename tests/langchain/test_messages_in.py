"""A LangChain conversation as the model gets to see it."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from dgemma_backend import Image
from langchain_dgemma import ChatDiffusionGemma
from langchain_dgemma.convert import to_messages

Scripted = Callable[..., Any]
HELLO = ["Hello", "<turn|>"]
CALL = ["<|tool_call>", "call:book{seats:4}", "<tool_call|>"]
CALLED = AIMessage(
    "", tool_calls=[{"name": "book", "args": {"seats": 4}, "id": "c1", "type": "tool_call"}]
)


def prompt(scripted: Scripted, messages: list[BaseMessage], **options: Any) -> str:
    """What the model sees, after `<bos>` and before its turn opens."""
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine, **options).invoke(messages)
    return str(engine.prompt_of()).removeprefix("<bos>").removesuffix("<|turn>model\n")


def user(text: str) -> str:
    return f"<|turn>user\n{text}<turn|>\n"


@pytest.mark.parametrize(
    ("messages", "seen"),
    [
        ([HumanMessage("hi")], user("hi")),
        ([SystemMessage("s"), HumanMessage("hi")], f"<|turn>system\ns<turn|>\n{user('hi')}"),
        (
            [HumanMessage("a"), SystemMessage("s"), HumanMessage("b")],
            f"{user('a')}<|turn>system\ns<turn|>\n{user('b')}",
        ),
        ([HumanMessage("a"), HumanMessage("b")], user("a") + user("b")),
        ([HumanMessage("a", name="Ana")], user("a")),
        ([HumanMessage("a"), AIMessage("b")], f"{user('a')}<|turn>model\nb<turn|>\n"),
        ([ChatMessage(content="a", role="user")], user("a")),
        ([ChatMessage(content="s", role="developer")], "<|turn>system\ns<turn|>\n"),
        ([HumanMessage([{"type": "text", "text": "a"}, "b"])], user("ab")),
        (
            [
                HumanMessage("a"),
                AIMessage(
                    [
                        {"type": "thinking", "thinking": "old thought"},
                        {"type": "text", "text": "b"},
                        {"type": "reasoning", "reasoning": "another"},
                    ]
                ),
                HumanMessage("c"),
            ],
            f"{user('a')}<|turn>model\nb<turn|>\n{user('c')}",
        ),
    ],
)
def test_messages_reach_the_model_in_its_own_format(
    scripted: Scripted, messages: list[BaseMessage], seen: str
) -> None:
    assert prompt(scripted, messages) == seen


CALL_SEEN = (
    "<|turn>model\n<|tool_call>call:book{seats:4}<tool_call|>"
    '<|tool_response>response:book{value:<|"|>'
)


@pytest.mark.parametrize(
    ("called", "result", "seen"),
    [
        (CALLED, ToolMessage("done", tool_call_id="c1"), "done"),
        (CALLED, ToolMessage([{"type": "text", "text": "done"}], tool_call_id="c1"), "done"),
        (CALLED, ToolMessage("no such table", tool_call_id="c1", status="error"),
         "Error: no such table"),
        (CALLED, ToolMessage("Error: full", tool_call_id="c1", status="error"), "Error: full"),
        (CALLED, FunctionMessage(content="done", name="book"), "done"),
        (
            AIMessage(
                [{"type": "tool_use", "id": "c1", "name": "book", "input": {"seats": 4}}],
                tool_calls=CALLED.tool_calls,
            ),
            ToolMessage("done", tool_call_id="c1"),
            "done",
        ),
    ],
)  # fmt: skip
def test_calls_and_their_results_reach_the_model(
    scripted: Scripted, called: AIMessage, result: BaseMessage, seen: str
) -> None:
    history = prompt(scripted, [HumanMessage("book"), called, result])
    assert history == f'{user("book")}{CALL_SEEN}{seen}<|"|>}}<tool_response|>'


def test_the_thought_before_a_call_is_told_again_until_the_answer(scripted: Scripted) -> None:
    called = CALLED.model_copy(update={"additional_kwargs": {"reasoning_content": "I must"}})
    result = ToolMessage("done", tool_call_id="c1")
    seen = prompt(scripted, [HumanMessage("book"), called, result], thinking=True)
    assert "<|channel>thought\nI must\n<channel|><|tool_call>" in seen


def test_a_broken_call_in_history_does_no_harm(scripted: Scripted) -> None:
    broken = AIMessage(
        "",
        invalid_tool_calls=[
            {"name": "book", "args": "{", "id": "c9", "error": None, "type": "invalid_tool_call"}
        ],
    )
    assert "call:" not in prompt(scripted, [HumanMessage("a"), broken, HumanMessage("b")])
    answered = [HumanMessage("a"), broken, ToolMessage("unreadable", tool_call_id="c9")]
    assert "response:book{" in prompt(scripted, answered)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (ChatMessage(content="a", role="robot"), "role 'robot' has no place"),
        (RemoveMessage(id="1"), "a RemoveMessage has no place"),
        (HumanMessage([{"type": "audio", "base64": "", "mime_type": "audio/wav"}]),
         "type 'audio' cannot be given"),
        (HumanMessage([{"type": "image", "url": "http://x/y.png"}]), "addresses are never fetched"),
        (HumanMessage([{"type": "image", "base64": "!", "mime_type": "image/png"}]),
         "base64 data of an image cannot be read"),
        (HumanMessage([{"type": "image", "base64": base64.b64encode(b"x").decode(),
                        "mime_type": "image/png"}]), "cannot look at images yet"),
        (ToolMessage("x", tool_call_id="c7"), "follows no tool call"),
        (HumanMessage(""), "(?i)nothing to answer|is empty"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_be_told_is_refused_by_name(
    scripted: Scripted, message: BaseMessage, words: str
) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    with pytest.raises(exceptions.ModelInvalidRequestError, match=words) as caught:
        model.invoke([message])
    assert isinstance(caught.value, ValueError)
    assert model.invoke("hi").content == "Hello"


DATA = base64.b64encode(b"picture").decode()
PICTURES: list[dict[str, Any]] = [
    {"type": "image", "base64": DATA, "mime_type": "image/jpeg"},
    {"type": "image", "source_type": "base64", "data": DATA, "mime_type": "image/jpeg"},
    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{DATA}"}},
    {"type": "image_url", "image_url": f"data:image/jpeg;base64,{DATA}"},
    {"type": "image", "url": f"data:image/jpeg;base64,{DATA}"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": DATA}},
]


@pytest.mark.parametrize("block", PICTURES)
def test_images_arrive_as_bytes_in_every_dialect(block: dict[str, Any]) -> None:
    (asked, answered) = to_messages([HumanMessage([block]), ToolMessage([block], tool_call_id="1")])
    assert asked.content == answered.content == (Image(b"picture", "image/jpeg"),)


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, "a"),
        ({"type": "text-plain", "text": "a", "mime_type": "text/plain"}, "a"),
        ({"rows": [1, 2]}, '{"rows": [1, 2]}'),
        ("a", "a"),
    ],
)
def test_text_arrives_in_every_dialect(block: Any, told: str) -> None:
    (message,) = to_messages([ToolMessage([block], tool_call_id="1")])
    assert message.text == told


ANTHROPIC_CALL = {"type": "tool_use", "id": "c1", "name": "book", "input": {"seats": 4}}
STANDARD_CALL = {"type": "tool_call", "id": "c1", "name": "book", "args": {"seats": 4}}


@pytest.mark.parametrize("block", [ANTHROPIC_CALL, STANDARD_CALL])
@pytest.mark.parametrize("calls", [[], CALLED.tool_calls])
def test_a_call_in_the_content_is_told_once(block: dict[str, Any], calls: list[Any]) -> None:
    thought = {"type": "thinking", "thinking": "I must"}
    (message,) = to_messages([AIMessage([thought, block], tool_calls=calls)])
    assert [(call.id, call.name, call.arguments) for call in message.tool_calls] == [
        ("c1", "book", {"seats": 4})
    ]
    assert (message.reasoning, message.text) == ("I must", "")


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("answer", [["Hm.", "<turn|>"], ["Hm.", *CALL, "<|tool_response>"]])
def test_what_a_protocol_stream_made_is_understood_as_history(
    scripted: Scripted, answer: list[str]
) -> None:
    model = ChatDiffusionGemma(engine=scripted(answer), seed=1)
    (invoked,) = to_messages([model.invoke("hi")])
    (streamed,) = to_messages([model.stream_events("hi", version="v3").output])
    assert streamed.text == invoked.text
    assert streamed.tool_calls == invoked.tool_calls
