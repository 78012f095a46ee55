"""Every odd conversation has a name and an answer: the table in docs/conversations.md."""

from typing import Any

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.segments import segments_to_text
from dgemma_backend.errors import EmptyPromptError, PromptError
from dgemma_backend.messages import Image, Message, Text, ToolCall

CALL = ToolCall("a", "now", {})
ASK = "<|turn>model\n"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        pytest.param(
            [Message.system("A"), Message.system("B"), Message.user("hi")],
            "<|turn>system\nA<turn|>\n<|turn>system\nB<turn|>\n<|turn>user\nhi<turn|>\n" + ASK,
            id="two system messages",
        ),
        pytest.param(
            [Message.user("hi"), Message.system("B")],
            "<|turn>user\nhi<turn|>\n<|turn>system\nB<turn|>\n" + ASK,
            id="system last",
        ),
        pytest.param(
            [Message.user("hi"), Message.user("there")],
            "<|turn>user\nhi<turn|>\n<|turn>user\nthere<turn|>\n" + ASK,
            id="consecutive users",
        ),
        pytest.param(
            [Message.system("A"), Message.user("")],
            "<|turn>system\nA<turn|>\n<|turn>user\n<turn|>\n" + ASK,
            id="empty user beside other messages",
        ),
        pytest.param(
            [Message.user("hi"), Message.assistant(tool_calls=[CALL]), Message.tool("12")],
            "<|turn>user\nhi<turn|>\n<|turn>model\n<|tool_call>call:now{}<tool_call|>"
            '<|tool_response>response:now{value:<|"|>12<|"|>}<tool_response|>',
            id="tool result without id",
        ),
        pytest.param(
            [Message.user("hi"), Message.assistant(tool_calls=[CALL]), Message.tool(None)],
            "<|turn>user\nhi<turn|>\n<|turn>model\n<|tool_call>call:now{}<tool_call|>"
            "<|tool_response>response:now{value:null}<tool_response|>",
            id="tool result of nothing",
        ),
        pytest.param(
            [Message.user("hi"), Message.assistant("so far"), Message.assistant("and on")],
            "<|turn>user\nhi<turn|>\n<|turn>model\nso farand on<turn|>\n" + ASK,
            id="consecutive assistants",
        ),
    ],
)
def test_odd_conversations_are_rendered_as_their_senders_expect(
    toy_protocol: Gemma4Protocol, messages: list[Message], text: str
) -> None:
    assert segments_to_text(toy_protocol.segments(messages)) == "<bos>" + text
    assert toy_protocol.prompt_ids(messages)


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([], EmptyPromptError, "the conversation is empty"),
        ([Message.user(" ")], EmptyPromptError, "the conversation is empty"),
        ([Message.user([Text("?"), Image(b"")])], PromptError, "cannot look at images yet"),
        ([Message.system([Image(b"")])], PromptError, "cannot look at images yet"),
        ([Message.user("hi"), Message.tool("12")], PromptError, "follows no tool call"),
    ],
)
def test_senseless_conversations_are_typed_errors(
    toy_protocol: Gemma4Protocol, messages: list[Message], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        toy_protocol.prompt_ids(messages)


@pytest.mark.parametrize("role", ["developer", "function", "turn", "model", "system\n", ""])
def test_a_role_that_does_not_exist_is_a_typed_error(role: Any) -> None:
    with pytest.raises(PromptError, match="does not exist"):
        Message(role, "hi")


def test_a_raw_prompt_is_the_only_way_to_spell_control_tokens(
    toy_protocol: Gemma4Protocol,
) -> None:
    asked = [Message.system("A"), Message.user("hi <there>")]
    ids = toy_protocol.prompt_ids(asked)
    spelt = segments_to_text(toy_protocol.segments(asked))
    assert toy_protocol.unsafe_prompt_ids(unsafe_raw_prompt=spelt) == ids
    with pytest.raises(EmptyPromptError, match="raw prompt is empty"):
        toy_protocol.unsafe_prompt_ids("")


def test_reserved_and_media_tokens_are_unusable_and_what_answers_need_is_not(
    full_protocol: Gemma4Protocol,
) -> None:
    unusable = full_protocol.unusable_ids()
    assert list(unusable) == sorted(set(unusable))
    media = {255999, 256000, 258880, 258881, 258882, 258883, 258884}
    assert {2, 3, 4, 6, 262143, *media} <= set(unusable)
    assert not {0, 1, 48, 49, 50, 52, 100, 101, 106, 107, 236743} & set(unusable)
    assert len(unusable) == 6_238
    words = full_protocol.tokenizer.encode_text("Any text at all: <unused7> [multimodal] 日本 😀")
    assert not set(words) & set(unusable)


@pytest.mark.parametrize(
    ("pieces", "closed"),
    [
        (["<turn|>", "<pad>"], True),
        (["<eos>"], True),
        ([" \n", "<turn|>"], True),
        (["<|channel>", "thought\n", "<channel|>", "<turn|>"], True),
        (["<|channel>", "thought", "<channel|>", "\n", "<turn|>", "junk"], True),
        (["Yes", "<turn|>"], False),
        (["<|channel>", "thought\nhm", "<channel|>", "<turn|>"], False),
        (["<|tool_call>", "call:now{}", "<tool_call|>", "<|tool_response>"], False),
        (["<|tool_response>"], False),
        ([" \n"], False),
        ([], False),
    ],
)
def test_a_turn_closed_before_anything_is_said_is_recognised(
    toy_protocol: Gemma4Protocol, pieces: list[str], closed: bool
) -> None:
    known = toy_protocol.tokenizer.control_ids
    ids = [
        token_id
        for piece in pieces
        for token_id in (
            [known[piece]] if piece in known else toy_protocol.tokenizer.encode_text(piece)
        )
    ]
    assert toy_protocol.closes_at_once(ids) == closed
