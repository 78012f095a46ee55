"""LlamaIndex's words -> ours: messages, tools, tool choices and response formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools.types import BaseTool

from dgemma_backend import Image, Message, ResponseFormat, Text, Tool, ToolCall, ToolChoice
from dgemma_backend.errors import PromptError, SettingError

_SYSTEM = frozenset({MessageRole.SYSTEM, MessageRole.DEVELOPER})
_ASSISTANT = frozenset({MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL})
_TOOL = frozenset({MessageRole.TOOL, MessageRole.FUNCTION})


class Call(NamedTuple):
    """A tool call in a message; `arguments` is None where its text is not a JSON object."""

    id: str
    name: str
    arguments: dict[str, Any] | None


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """A LlamaIndex conversation as ours. Raises PromptError for what the model cannot be told."""
    return [_message(message) for message in messages]


def _message(message: ChatMessage) -> Message:
    content = _content(message.blocks)
    if message.role in _SYSTEM:
        return Message.system(content)
    if message.role in _ASSISTANT:
        calls = [ToolCall(call.id, call.name, call.arguments or {}) for call in calls_of(message)]
        thoughts = [each.content for each in message.blocks if isinstance(each, ThinkingBlock)]
        reasoning = "".join(thought for thought in thoughts if thought)
        return Message.assistant(content, tool_calls=calls, reasoning=reasoning or None)
    if message.role in _TOOL:
        call_id, name = (
            _text(message.additional_kwargs, each) for each in ("tool_call_id", "name")
        )
        return Message.tool(content if message.blocks else None, tool_call_id=call_id, name=name)
    return Message.user(content)


def _text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and value else None


def calls_of(message: ChatMessage) -> list[Call]:
    """The tool calls of a message: its blocks, or else its `additional_kwargs`, never both."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return [
            Call(block.tool_call_id or "", block.tool_name, _arguments(block.tool_kwargs))
            for block in blocks
        ]
    older = message.additional_kwargs.get("tool_calls")
    return [_older_call(each) for each in older] if isinstance(older, Sequence) else []


def _older_call(call: Any) -> Call:
    """A call as it stands in `additional_kwargs["tool_calls"]` of any provider."""
    plain = call if isinstance(call, Mapping) else call.model_dump()
    function = plain.get("function") or plain
    name = function.get("name") or plain.get("tool_name")
    if not name:
        raise PromptError(f"a tool call in additional_kwargs has no name: {call!r:.120}")
    arguments: Any = next(
        (function[key] for key in ("arguments", "tool_kwargs") if function.get(key) is not None), {}
    )
    return Call(str(plain.get("id") or plain.get("tool_id") or ""), name, _arguments(arguments))


def _arguments(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return dict(value) if isinstance(value, Mapping) else None


def _content(blocks: Sequence[Any]) -> str | list[Text | Image]:
    parts: list[Text | Image] = []
    for block in blocks:
        for part in _parts(block):
            if isinstance(part, Text) and parts and isinstance(parts[-1], Text):
                parts[-1] = Text(f"{parts[-1].text}\n{part.text}")  # as ChatMessage.content joins
            else:
                parts.append(part)
    if not parts:
        return ""
    return parts[0].text if len(parts) == 1 and isinstance(parts[0], Text) else parts


def _parts(block: Any) -> list[Text | Image]:
    """A content block as parts; none for what is told elsewhere in the message."""
    if isinstance(block, TextBlock):
        return [Text(block.text)]
    if isinstance(block, ImageBlock):
        return [_image(block)]
    if isinstance(block, CachePoint | ThinkingBlock | ToolCallBlock):
        return []
    if isinstance(block, CitableBlock):
        head = Text(f"{block.title} ({block.source}):")
        return [head, *(part for each in block.content for part in _parts(each))]
    if isinstance(block, CitationBlock):
        return _parts(block.cited_content)
    raise PromptError(
        f"DiffusionGemma does not accept {block.block_type} blocks; turn the content into text"
    )


def _image(block: ImageBlock) -> Image:
    if block.url is not None and not str(block.url).startswith("data:"):
        raise PromptError(
            f"an image must come with its data, not as {str(block.url)[:80]!r}; addresses are "
            "never fetched"
        )
    data = block.resolve_image().read()
    return Image(data, block.image_mimetype or "image/png")


def to_tools(tools: Sequence[Any]) -> list[Tool]:
    """Tools, as LlamaIndex's objects or in OpenAI's form, as ours."""
    found = []
    for tool in tools:
        function = plain_tool(tool)["function"]
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        found.append(Tool(function["name"], function.get("description") or "", parameters))
    return found


def plain_tool(tool: Any) -> dict[str, Any]:
    """A tool in OpenAI's form. Raises SettingError for what is none."""
    if isinstance(tool, BaseTool):
        return tool.metadata.to_openai_tool(skip_length_check=True)
    if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping):
        return dict(tool)
    raise SettingError(
        f"{tool!r:.120} is no tool. Give a llama_index.core.tools.BaseTool, such as "
        "FunctionTool.from_defaults(function), or a mapping in OpenAI's form."
    )


def to_tool_choice(
    choice: Any, names: Sequence[str], *, required: bool = False, parallel: bool = True
) -> ToolChoice:
    """LlamaIndex's and OpenAI's ways to choose a tool, as ours; `names` are those declared.

    Raises SettingError for an unknown tool or form, and for `none` where a call is required.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function")
        named = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        choice = named or choice.get("type")
    if choice == "none" and required:
        raise SettingError("tool_choice='none' forbids the call that tool_required=True demands")
    if choice == "none":
        return ToolChoice("none")
    if choice in (None, False, "", "auto"):
        return ToolChoice("required" if required else "auto", parallel=parallel)
    if choice in (True, "any", "required"):
        return ToolChoice("required", parallel=parallel)
    if choice in names:
        return ToolChoice.named(choice, parallel=parallel)
    raise SettingError(
        f"tool_choice {choice!r} is none of the tools: {', '.join(names) or 'there are none'}"
    )


def plain_tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    """A tool choice in OpenAI's form."""
    if choice.name is None:
        return choice.mode
    return {"type": "function", "function": {"name": choice.name}}


def to_response_format(given: Any) -> ResponseFormat | None:
    """A response format in ours or OpenAI's form, or a type that pydantic knows.

    Rules of a schema that decoding cannot guarantee are checked in the finished answer. Raises
    SettingError for a form that is none.
    """
    if given is None or isinstance(given, ResponseFormat):
        return given
    if isinstance(given, type):
        return ResponseFormat.json_schema(given, on_unsupported="validate")
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat.json()
    inner = given.get("json_schema") if kind == "json_schema" else None
    if isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        return ResponseFormat.json_schema(inner["schema"], on_unsupported="validate")
    raise SettingError(
        f"response_format {given!r:.120} must be a ResponseFormat, a type, or a mapping such as "
        "{'type': 'json_object'} or {'type': 'json_schema', 'json_schema': {'schema': ...}}"
    )


def schema_format(cls: type[Any]) -> dict[str, Any]:
    """The response format of a pydantic class in OpenAI's form, which is plain data."""
    schema = {"name": cls.__name__, "schema": cls.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}
