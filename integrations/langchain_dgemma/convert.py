"""LangChain's words -> ours: messages, tools and tool choices."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from dgemma_backend import Image, Message, Text, ToolCall
from dgemma_backend.errors import PromptError

_ROLES = {
    "system": SystemMessage,
    "developer": SystemMessage,
    "human": HumanMessage,
    "user": HumanMessage,
    "ai": AIMessage,
    "assistant": AIMessage,
    "model": AIMessage,
}
_IN_TOOL_CALLS = frozenset(
    {"tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "input_json_delta"}
)


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """A LangChain conversation as ours. Raises PromptError for what the model cannot be told."""
    return [_message(message, messages) for message in messages]


def _message(message: BaseMessage, conversation: Sequence[BaseMessage]) -> Message:
    if isinstance(message, ChatMessage):
        role = _ROLES.get(message.role.lower())
        if role is None:
            raise PromptError(
                f"a ChatMessage with role {message.role!r} has no place in a conversation; "
                f"there are {', '.join(_ROLES)}"
            )
        message = role(content=message.content)
    if isinstance(message, SystemMessage):
        return Message.system(_content(message))
    if isinstance(message, HumanMessage):
        return Message.user(_content(message))
    if isinstance(message, AIMessage):
        return _assistant(message, conversation)
    if isinstance(message, ToolMessage):
        content = _content(message)
        if message.status == "error":
            content = _as_error(content)
        return Message.tool(content, tool_call_id=message.tool_call_id, name=message.name)
    if isinstance(message, FunctionMessage):
        return Message.tool(_content(message), name=message.name)
    raise PromptError(f"a {type(message).__name__} has no place in a conversation")


def _assistant(message: AIMessage, conversation: Sequence[BaseMessage]) -> Message:
    thoughts = [message.additional_kwargs.get("reasoning_content")]
    if isinstance(message.content, list):
        thoughts += [_thought(block) for block in message.content]
    reasoning = "".join(thought for thought in thoughts if isinstance(thought, str))
    return Message.assistant(
        _content(message), tool_calls=_calls(message, conversation), reasoning=reasoning or None
    )


def _calls(message: AIMessage, conversation: Sequence[BaseMessage]) -> list[ToolCall]:
    """The calls of a message, each once, whether they stand in its fields or in its content."""
    calls = [ToolCall(call["id"] or "", call["name"], call["args"]) for call in message.tool_calls]
    known = {call.id for call in calls}
    for block in message.content if isinstance(message.content, list) else ():
        found = _call(block) if isinstance(block, dict) else None
        if found is not None and found.id not in known:
            calls.append(found)
    answered = {m.tool_call_id for m in conversation if isinstance(m, ToolMessage)}
    # A call that could not be read is left out, unless something answered it.
    calls += [
        ToolCall(call["id"], call["name"] or "unknown", {})
        for call in message.invalid_tool_calls
        if call["id"] in answered
    ]
    return calls


def _call(block: Mapping[str, Any]) -> ToolCall | None:
    """The call of a content block in LangChain's or Anthropic's form."""
    arguments = {"tool_call": block.get("args"), "tool_use": block.get("input")}.get(
        str(block.get("type"))
    )
    if not isinstance(arguments, Mapping) or not block.get("name"):
        return None
    return ToolCall(block.get("id") or "", block["name"], arguments)


def _thought(block: str | dict[Any, Any]) -> Any:
    kind = block.get("type") if isinstance(block, dict) else None
    return (
        block.get(kind) if isinstance(block, dict) and kind in ("reasoning", "thinking") else None
    )


def _content(message: BaseMessage) -> str | list[Text | Image]:
    if isinstance(message.content, str):
        return message.content
    parts: list[Text | Image] = []
    for block in message.content_blocks:
        part = _part(dict(block))
        if part is not None:
            parts.append(part)
    return parts


def _part(block: dict[str, Any]) -> Text | Image | None:
    """A content block as a part; None for what is told elsewhere in the message."""
    if block["type"] == "non_standard":
        block = block["value"]
    kind = block.get("type")
    if kind in ("text", "text-plain"):
        return Text(block.get("text") or "")
    if kind in _IN_TOOL_CALLS or kind in ("reasoning", "thinking", "redacted_thinking"):
        return None
    if kind == "image":
        return _image(block)
    if kind == "image_url":  # a bare string; LangChain itself knows the form with a dict
        return _image({"url": block["image_url"]})
    if kind is None:  # a tool may return any data
        return Text(json.dumps(block, ensure_ascii=False))
    raise PromptError(f"a content block of type {kind!r} cannot be given to this model")


def _image(block: Mapping[str, Any]) -> Image:
    media_type = block.get("mime_type") or "image/png"
    data = block.get("base64")
    if data is None and str(block.get("url", "")).startswith("data:"):
        head, _, data = block["url"].partition(",")
        media_type = head.removeprefix("data:").split(";")[0] or media_type
    if data is None:
        raise PromptError(
            "an image must come with its data (base64 or a data: URL); addresses are never fetched"
        )
    try:
        return Image(base64.b64decode(data, validate=True), media_type)
    except (binascii.Error, ValueError) as error:
        raise PromptError(f"the base64 data of an image cannot be read: {error}") from error


def _as_error(content: str | list[Text | Image]) -> str | list[Text | Image]:
    """A failed tool's result, marked as such for the model."""
    first = content if isinstance(content, str) else "".join(_texts(content))
    if first.lstrip().lower().startswith("error"):
        return content
    return f"Error: {content}" if isinstance(content, str) else [Text("Error: "), *content]


def _texts(parts: Sequence[Text | Image]) -> list[str]:
    return [part.text for part in parts if isinstance(part, Text)]
