"""A call in LangChain's words -> the arguments of `Engine.stream`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from dgemma_backend import GenerationSettings
from dgemma_backend.errors import SettingError, UnknownSettingError
from dgemma_backend.events import Draft
from langchain_dgemma.convert import to_messages
from langchain_dgemma.formats import plain_format, to_response_format, with_schema_told
from langchain_dgemma.tools import plain_choice, plain_tools, to_tool_choice, to_tools

SETTINGS = (
    "max_tokens", "temperature", "top_k", "top_p", "seed", "stop", "thinking", "thinking_budget",
    "timeout", "max_denoising_steps", "entropy_bound", "confidence_threshold",
    "stability_threshold", "t_min", "t_max", "isolate", "cache_salt", "draft", "steering",
    "sampler", "stop_rule",
)  # fmt: skip
ALIASES = {
    "model_name": "model",
    "model_id": "model",
    "stop_sequences": "stop",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "request_timeout": "timeout",
    "reasoning": "thinking",
}
"""Names that other chat models have for ours."""

_BUDGETS = {"low": 256, "medium": 1024, "high": None}  # tokens of thought
_BESIDE_SETTINGS = (
    "model", "stream", "on_draft", "drafts", "tools", "tool_choice", "parallel_tool_calls",
    "strict", "response_format", "reasoning_effort",
)  # fmt: skip
_WATCHING = ("on_draft", "drafts", "stream")  # changes no answer


class Call(NamedTuple):
    """One call: what `Engine.stream` is given, and who watches drafts."""

    request: dict[str, Any]
    draft_events: bool
    on_draft: Callable[[Draft], object] | None


def call_of(
    messages: Sequence[BaseMessage],
    stop: str | Sequence[str] | None,
    given: Mapping[str, Any],
    *,
    own: Mapping[str, Any],
    drafts: str,
    on_draft: Callable[[Draft], object] | None,
    schema_in_prompt: bool,
) -> Call:
    """What a call asks for: `own` are the model's settings, `given` those of the call.

    Raises SettingError, UnknownSettingError and PromptError.
    """
    given = {ALIASES.get(name, name): value for name, value in given.items()}
    beside = {name: given.pop(name, None) for name in _BESIDE_SETTINGS if name in given}
    effort = {name: beside[name] for name in ("reasoning_effort",) if name in beside}
    if stop is not None:
        given["stop"] = stop if isinstance(stop, str) else list(stop)
    tools = to_tools(beside.get("tools") or ())
    response_format = to_response_format(
        beside.get("response_format"), strict=beside.get("strict") is True
    )
    conversation = to_messages(messages)
    if schema_in_prompt:
        conversation = with_schema_told(conversation, response_format, beside_tools=bool(tools))
    watched = beside.get("drafts") or drafts
    if watched not in ("off", "events"):
        raise SettingError(f"drafts={watched!r} must be 'off' or 'events'")
    request = {
        "messages": conversation,
        "tools": tools,
        "tool_choice": to_tool_choice(
            beside.get("tool_choice"),
            [tool.name for tool in tools],
            parallel=beside.get("parallel_tool_calls") is not False,
        ),
        "response_format": response_format,
        "settings": settings_of(own, {**given, **effort}),
    }
    return Call(request, watched == "events", beside.get("on_draft") or on_draft)


def settings_of(own: Mapping[str, Any], given: Mapping[str, Any]) -> GenerationSettings:
    """The model's own settings with those of a call before them; names a call may not have raise.

    `reasoning_effort` stands for `thinking` and `thinking_budget`, where these are not given.
    """
    for name in given:
        if name not in own:
            near = difflib.get_close_matches(name, [*own, *_BESIDE_SETTINGS], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(own)}."
            raise UnknownSettingError(f"there is no setting {name!r}.{hint}")
    merged = {**own, **given}
    effort = merged.pop("reasoning_effort", None)
    if effort is not None:
        _apply_effort(effort, merged, given)
    told = "thinking" in given or effort is not None
    if told and not merged["thinking"] and "thinking_budget" not in given:
        merged["thinking_budget"] = None  # the model's own budget is for when it thinks
    return GenerationSettings.from_mapping(merged)


def _apply_effort(effort: Any, merged: dict[str, Any], given: Mapping[str, Any]) -> None:
    if effort not in ("none", *_BUDGETS):
        raise SettingError(
            f"reasoning_effort={effort!r} must be one of none, {', '.join(_BUDGETS)}"
        )
    if "thinking" not in given:
        merged["thinking"] = effort != "none"
    if "thinking_budget" not in given and merged["thinking_budget"] is None:
        merged["thinking_budget"] = _BUDGETS.get(effort) if merged["thinking"] else None


def plain_call(given: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments for traces and cache keys: plain data, and nothing that only watches."""
    plain = {name: value for name, value in given.items() if name not in _WATCHING}
    for name, made_plain in (
        ("tools", plain_tools),
        ("tool_choice", plain_choice),
        ("response_format", plain_format),
    ):
        if plain.get(name) is not None:
            plain[name] = made_plain(plain[name])
    return plain
