"""What an answer's text must be, in LangChain's and OpenAI's words, as a `ResponseFormat`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.utils.function_calling import (
    convert_to_json_schema,
    convert_to_openai_function,
)
from langchain_core.utils.pydantic import is_basemodel_subclass

from dgemma_backend import Message, ResponseFormat
from dgemma_backend.errors import SettingError

_WRAPPERS = frozenset({"json_schema", "json_object", "text"})


def schema_of(schema: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic class (v1 too), TypedDict, tool declaration or schema.

    Raises SettingError for anything else.
    """
    if isinstance(schema, Mapping):
        if _is_declaration(schema):
            return dict(convert_to_openai_function(dict(schema)).get("parameters") or {})
        return dict(schema)
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        made = getattr(schema, "model_json_schema", None) or schema.schema  # type: ignore[attr-defined]
        return dict(made())
    try:
        return dict(convert_to_json_schema(schema))
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"{schema!r:.80} is no schema: a pydantic class, a TypedDict or a JSON schema is"
        ) from error


def to_response_format(given: Any, *, strict: bool = False) -> ResponseFormat | None:
    """`response_format` of a call as ours; None where any text will do.

    With `strict`, here or in the format itself, a rule of the schema that decoding cannot
    guarantee is refused; without, the finished answer is checked for it.
    """
    if given is None or isinstance(given, ResponseFormat):
        return given
    name = given.get("type") if isinstance(given, Mapping) else None
    if name in _WRAPPERS:
        return _unwrapped(given, strict)
    return _guaranteed(schema_of(given), strict)


def _unwrapped(given: Mapping[str, Any], strict: bool) -> ResponseFormat | None:
    """OpenAI's `{"type": ...}` forms."""
    if given["type"] == "text":
        return None
    if given["type"] == "json_object":
        return ResponseFormat.json()
    inner = given.get("json_schema", given)
    if not isinstance(inner, Mapping) or "schema" not in inner:
        raise SettingError(
            f"response_format={given!r:.120} has no schema. Write it as "
            '{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}.'
        )
    return _guaranteed(schema_of(inner["schema"]), strict or inner.get("strict") is True)


def _guaranteed(schema: Mapping[str, Any], strict: bool) -> ResponseFormat:
    return ResponseFormat.json_schema(schema, on_unsupported="raise" if strict else "validate")


def plain_format(given: Any) -> Any:
    """A `response_format` as plain data, for traces and cache keys."""
    if isinstance(given, ResponseFormat):
        return {"type": given.kind, "value": given.value, "on_unsupported": given.on_unsupported}
    return bound_format(given)


def bound_format(given: Any) -> Any:
    """A `response_format` as it is bound: classes become their schemas."""
    if isinstance(given, ResponseFormat | Mapping):
        return given
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema_of(given)}}


def with_schema_told(
    messages: Sequence[Message], wanted: ResponseFormat | None, *, beside_tools: bool
) -> list[Message]:
    """The conversation with the schema in its system message.

    A constraint keeps the form; what the fields mean stands in their descriptions alone.
    """
    conversation = list(messages)
    if wanted is None or wanted.kind != "json_schema" or not _says_more(wanted.value):
        return conversation
    when = "When you answer without calling a tool, answer" if beside_tools else "Answer"
    schema = json.dumps(wanted.value, ensure_ascii=False)
    told = f"{when} with JSON that fits this JSON schema:\n{schema}"
    if conversation and conversation[0].role == "system":
        first = conversation[0]
        conversation[0] = replace(first, content=f"{first.text}\n\n{told}")
        return conversation
    return [Message.system(told), *conversation]


def _says_more(schema: Any) -> bool:
    """Whether a schema names fields, or anything else beside being an object."""
    return isinstance(schema, Mapping) and set(schema) != {"type"}


def _is_declaration(schema: Mapping[str, Any]) -> bool:
    """Whether it declares a function, in OpenAI's or Anthropic's form."""
    if schema.get("type") == "function":
        return True
    return "name" in schema and ("parameters" in schema or "input_schema" in schema)
