"""The neutral words check themselves when they are made."""

from typing import Any, cast

import pytest

from dgemma_backend.errors import PromptError, SettingError
from dgemma_backend.messages import (
    Image,
    Message,
    Reply,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)


def test_an_unknown_role_is_refused_with_those_there_are() -> None:
    with pytest.raises(PromptError, match="role 'robot' does not exist; there are system, user"):
        Message(cast(Any, "robot"), "hi")


def test_content_of_another_type_is_refused() -> None:
    with pytest.raises(PromptError, match="content of a user message must be a string"):
        Message("user", cast(Any, 3))
    with pytest.raises(PromptError, match="content of a user message must be a string"):
        Message("user", cast(Any, ("bare string",)))


def test_only_the_assistant_calls_tools() -> None:
    with pytest.raises(PromptError, match="only an assistant message has tool calls, not a user"):
        Message("user", "hi", tool_calls=(ToolCall("1", "now", {}),))


def test_text_joins_the_parts_and_leaves_images_out() -> None:
    assert Message.user([Text("a"), Image(b"x"), Text("b")]).text == "ab"
    assert Message.tool(None, name="now").text == ""


def test_a_tool_call_with_arguments_as_a_string_is_refused() -> None:
    with pytest.raises(PromptError, match="must be a mapping, got str"):
        ToolCall("1", "now", cast(Any, '{"a": 1}'))


def test_a_tool_without_a_name_is_refused() -> None:
    with pytest.raises(PromptError, match="a tool needs a name, got ' '"):
        Tool(" ")


@pytest.mark.parametrize(("mode", "name"), [("named", None), ("auto", "now"), ("required", "now")])
def test_a_named_choice_has_a_name_and_no_other_has_one(mode: Any, name: str | None) -> None:
    with pytest.raises(SettingError, match="a name goes with mode 'named'"):
        ToolChoice(mode, name)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(SettingError, match="'any' does not exist"):
        ToolChoice(cast(Any, "any"))


def test_a_reply_goes_back_into_the_conversation_as_a_message() -> None:
    call = ToolCall("c", "now", {})
    reply = Reply("hi", "hm", (call,), (), "tool_calls", Usage(3, 4), 0, "tiny")
    assert reply.message == Message.assistant("hi", tool_calls=[call], reasoning="hm")
    assert reply.usage.total_tokens == 7
