"""LangChain's tools and tool choices as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from dgemma_backend import Tool, ToolChoice
from dgemma_backend.errors import SettingError

_AUTO = (None, False, "", "auto")
_REQUIRED = (True, "any", "required")


def to_tools(tools: Sequence[Any]) -> list[Tool]:
    """Tools in any form LangChain knows: functions, classes, tools, schemas, dialects' dicts.

    Raises SettingError for a tool that only a remote provider could run.
    """
    found = []
    for tool in tools:
        if isinstance(tool, Tool):
            found.append(tool)
            continue
        declared = convert_to_openai_tool(tool)
        if "function" not in declared:
            raise SettingError(
                f"the tool {tool!r:.80} runs at a remote provider; this model has functions only"
            )
        function = declared["function"]
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        found.append(Tool(function["name"], function.get("description") or "", parameters))
    return found


def plain_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Tools as plain data, in OpenAI's form, which `to_tools` understands again."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in to_tools(tools)
    ]


def to_tool_choice(
    choice: Any, names: Sequence[str], *, parallel: bool = True
) -> ToolChoice | None:
    """LangChain's `tool_choice` as ours; `names` are those of the bound tools.

    With `parallel` off there is one call at the most. Raises SettingError for an unknown tool or
    form.
    """
    plain = plain_choice(choice)
    if plain == "auto":
        return None if parallel else ToolChoice("auto", parallel=False)
    if plain == "none":
        return ToolChoice("none")
    if plain == "required":
        return ToolChoice("required", parallel=parallel)
    name = plain["function"]["name"] if isinstance(plain, dict) else plain
    if name in names:
        return ToolChoice.named(name, parallel=parallel)
    raise SettingError(
        f"tool_choice {choice!r} is none of the tools: {', '.join(names) or 'no tool'}"
    )


def plain_choice(choice: Any) -> Any:
    """A `tool_choice` as plain data: "auto", "none", "required", or one tool in OpenAI's form."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        named = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if named:
            return {"type": "function", "function": {"name": named}}
        choice = choice.get("type")
    if choice in _AUTO:
        return "auto"
    if choice in _REQUIRED:
        return "required"
    if choice == "none":
        return choice
    return {"type": "function", "function": {"name": choice}}
