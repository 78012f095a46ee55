"""Whole answers of the model: a thought or none, then text, data or tool calls, then the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from dgemma_backend.constraint.expression import (
    ANY_TEXT,
    EMPTY,
    Choice,
    Control,
    Expression,
    Repeat,
    choice,
    optional,
    sequence,
)
from dgemma_backend.constraint.limits import Budget
from dgemma_backend.constraint.notation import CallNotation
from dgemma_backend.constraint.schema import OnUnsupported, schema_expression
from dgemma_backend.errors import ConstraintError, SettingError
from dgemma_backend.messages import Tool, ToolChoice

Thought = Literal["never", "empty", "optional", "required", "open"]
"""What may come before the answer: nothing; at most an empty thought (the model's habit with
thinking off); a thought or nothing; a thought; the rest of a thought that the prompt has opened."""

_CHANNEL = "thought\n"


@dataclass(frozen=True)
class Markers:
    """Ids of the control tokens an answer is built of, as the chat protocol has them.

    `ends` end an answer in words, `after_call` one that ends in a tool call; `padding` fills the
    canvas behind either.
    """

    call_open: int
    call_close: int
    quote: int
    channel_open: int
    channel_close: int
    ends: tuple[int, ...]
    after_call: tuple[int, ...]
    padding: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not value:
                raise SettingError(f"markers need at least one id as {field.name!r}, got none")


def answered(body: Expression, markers: Markers, thought: Thought) -> Expression:
    """An answer in words: a thought as asked for, `body`, an end token."""
    return sequence(_thought(markers, thought), body, Control(markers.ends))


def _thought(markers: Markers, thought: Thought) -> Expression:
    close = Control((markers.channel_close,))
    head = sequence(Control((markers.channel_open,)), _CHANNEL)
    whole = sequence(head, ANY_TEXT, close)
    kinds: dict[str, Expression] = {
        "never": EMPTY,
        "empty": optional(sequence(head, close)),
        "optional": optional(whole),
        "required": whole,
        "open": sequence(ANY_TEXT, close),
    }
    if thought not in kinds:
        raise SettingError(
            f"thought {thought!r} does not exist; there are {', '.join(get_args(Thought))}"
        )
    return kinds[thought]


@dataclass(frozen=True)
class ToolAnswer:
    """Answers that may call tools. `left_out` are pointers into the tools' schemas, by name."""

    expression: Expression
    left_out: tuple[str, ...]


def tool_answer(
    tools: Sequence[Tool],
    tool_choice: ToolChoice,
    markers: Markers,
    budget: Budget,
    *,
    parallel: bool = True,
    thought: Thought = "never",
    final: Expression | None = None,
    on_unsupported: OnUnsupported = "error",
) -> ToolAnswer:
    """Answers under a tool choice.

    `auto` is words, calls, or words and then calls; `final` takes the place of the words, so that
    an answer is either data or calls. Without `parallel` there is one call at most. Raises
    ConstraintError for tools that cannot be called, UnsupportedSchemaError for their schemas.
    """
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise ConstraintError(f"two tools have one name: {', '.join(sorted(names))}")
    words = sequence(ANY_TEXT if final is None else final, Control(markers.ends))
    before = _thought(markers, thought)
    if tool_choice.mode == "none":
        return ToolAnswer(sequence(before, words), ())
    callable_tools = [tool for tool in tools if tool_choice.name in (None, tool.name)]
    if not callable_tools:
        wanted = f"named {tool_choice.name!r}" if tool_choice.name else "at all"
        raise ConstraintError(
            f"tool choice {tool_choice.mode!r} needs a tool {wanted}, the request has "
            f"{', '.join(map(repr, names)) or 'none'}"
        )
    calls, left_out = _calls(callable_tools, markers, budget, parallel, on_unsupported)
    if tool_choice.mode == "auto":
        ahead = ANY_TEXT if final is None else EMPTY
        calls = choice(words, sequence(ahead, calls))
    return ToolAnswer(sequence(before, calls), left_out)


def _calls(
    tools: Sequence[Tool],
    markers: Markers,
    budget: Budget,
    parallel: bool,
    on_unsupported: OnUnsupported,
) -> tuple[Expression, tuple[str, ...]]:
    """One call or more, and the token that hands over to the tools."""
    notation = CallNotation((markers.quote,))
    bodies: list[Expression] = []
    left_out: list[str] = []
    for tool in tools:
        if tool.name != tool.name.strip() or set(tool.name) & set("{(:\n"):
            raise ConstraintError(
                f"the tool name {tool.name!r} cannot be written in a call; use letters, digits, "
                "'_', '-' and '.'"
            )
        found = schema_expression(
            _as_object(tool.parameters), notation, budget, on_unsupported, f"{tool.name}#"
        )
        left_out += found.left_out
        bodies.append(sequence(tool.name, found.expression))
    call = sequence(
        Control((markers.call_open,)), "call:", Choice(tuple(bodies)),
        Control((markers.call_close,)),
    )  # fmt: skip
    several = Repeat(call, 1, None if parallel else 1)
    return sequence(several, Control(markers.after_call)), tuple(left_out)


def _as_object(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments are always an object; a tool without parameters takes none."""
    if not parameters:
        return {"type": "object", "additionalProperties": False}
    if parameters.get("type") == "object" and not parameters.get("properties"):
        # a declaration without properties means no arguments, not any
        return {"additionalProperties": False, **parameters}
    return parameters if "type" in parameters else {**parameters, "type": "object"}
