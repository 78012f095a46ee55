"""The words of `llm` -> ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import llm
from llm.parts import Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from dgemma_backend import GenerationSettings, Message, ResponseFormat, Tool, ToolCall
from dgemma_backend.errors import PromptError


def to_request(prompt: llm.Prompt, engine_options: Iterable[str]) -> dict[str, Any]:
    """The arguments of `Engine.stream` for a prompt. Raises PromptError and SettingError."""
    settings = prompt.options.model_dump(exclude=set(engine_options), exclude_none=True)
    schema: Any = prompt.schema
    return {
        "messages": [each for message in prompt.messages for each in _messages(message)],
        "tools": [
            Tool(tool.name, tool.description or "", tool.input_schema) for tool in prompt.tools
        ],
        "response_format": (
            None if not schema else ResponseFormat.json_schema(schema, on_unsupported="validate")
        ),
        "settings": GenerationSettings.from_mapping(settings),
    }


def _messages(message: Any) -> list[Message]:
    """A message of `llm` as ours: several for the results of several tools."""
    parts: Sequence[Part] = message.parts
    for part in parts:
        if not isinstance(part, TextPart | ReasoningPart | ToolCallPart | ToolResultPart):
            raise PromptError(f"this model cannot be given a {type(part).__name__}")
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    if message.role == "tool":
        return [_result(part) for part in parts if isinstance(part, ToolResultPart)]
    if message.role == "assistant":
        thoughts = "".join(part.text for part in parts if isinstance(part, ReasoningPart))
        calls = [
            ToolCall(part.tool_call_id or "", part.name, part.arguments)
            for part in parts
            if isinstance(part, ToolCallPart)
        ]
        return [Message.assistant(text, tool_calls=calls, reasoning=thoughts or None)]
    return [Message.system(text) if message.role == "system" else Message.user(text)]


def _result(part: ToolResultPart) -> Message:
    if part.attachments:
        raise PromptError(f"the result of {part.name!r} has attachments; send text only")
    text = f"Error: {part.exception}" if part.exception and not part.output else part.output
    return Message.tool(text, tool_call_id=part.tool_call_id, name=part.name)
