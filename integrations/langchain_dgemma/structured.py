"""`with_structured_output`: the runnable that reads an answer as what a schema describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal, get_args

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.output_parsers import (
    BaseOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
    PydanticToolsParser,
)
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from dgemma_backend.errors import SettingError
from langchain_dgemma.formats import schema_of

Method = Literal["json_schema", "function_calling", "json_mode"]


def structured(
    bind_tools: Callable[..., Runnable[LanguageModelInput, Any]],
    schema: Any,
    *,
    method: str,
    include_raw: bool,
    strict: bool | None,
    tools: Sequence[Any] | None,
    bound: Mapping[str, Any],
) -> Runnable[LanguageModelInput, Any]:
    """The model bound to answer by `schema`, and the parser behind it; `bound` is bound as well.

    Raises SettingError for a method that does not exist, a missing schema, and `tools` beside
    another method than "json_schema".
    """
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise SettingError(f"method={method!r} does not exist; there are {known}")
    if schema is None and method != "json_mode":
        raise SettingError(f"method={method!r} needs a schema; json_mode alone goes without")
    if tools is not None and method != "json_schema":
        raise SettingError(f"tools stand beside method='json_schema' only, not {method!r}")
    options = {**bound, "strict": strict}
    if schema is not None:
        options["ls_structured_output_format"] = {"kwargs": {"method": method}, "schema": schema}
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        choice = {"type": "function", "function": {"name": name}}
        options |= {"tool_choice": choice, "parallel_tool_calls": False}
        model, parser = bind_tools([schema], **options), _call_parser(schema, name)
    else:
        wanted = _format(method, schema, strict)
        model = bind_tools(tools or [], response_format=wanted, **options)
        parser = _text_parser(schema)
    return _with_raw(model, parser) if include_raw else model | parser


def _format(method: str, schema: Any, strict: bool | None) -> dict[str, Any]:
    if method == "json_mode":
        return {"type": "json_object"}
    described: dict[str, Any] = {"name": _name(schema), "schema": schema_of(schema)}
    if strict:
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}


def _name(schema: Any) -> str:
    told = schema.get("title") or schema.get("name") if isinstance(schema, dict) else None
    return str(told or getattr(schema, "__name__", "answer"))


def _call_parser(schema: Any, name: str) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def _text_parser(schema: Any) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticAnswer(pydantic_object=schema)
    return JsonAnswer()


def _no_text(result: list[Generation], partial: bool) -> bool:
    """Whether there is no text to read, because the answer calls tools. A cut answer raises."""
    message = result[0].message if isinstance(result[0], ChatGeneration) else None
    if getattr(message, "tool_calls", None) and not result[0].text.strip():
        return True
    if not partial and not result[0].text.strip():
        reason = message.response_metadata.get("finish_reason") if message is not None else None
        raise OutputParserException(
            f"the answer has no text to read (finish_reason {reason!r}); if the model thinks, "
            "give it more max_tokens or a thinking_budget",
            llm_output="",
        )
    return False


class JsonAnswer(JsonOutputParser):
    """Reads an answer's JSON; None where it calls tools instead."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """As `JsonOutputParser.parse_result`."""
        return None if _no_text(result, partial) else super().parse_result(result, partial=partial)


class PydanticAnswer(PydanticOutputParser[Any]):
    """Reads an answer as an object of a pydantic class; None where it calls tools instead."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """As `PydanticOutputParser.parse_result`."""
        return None if _no_text(result, partial) else super().parse_result(result, partial=partial)


def _with_raw(
    model: Runnable[LanguageModelInput, Any], parser: BaseOutputParser[Any]
) -> Runnable[LanguageModelInput, Any]:
    """The message, what was read from it, and why it could not be read; never raises for that."""
    read = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    unread = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | read.with_fallbacks([unread], exception_key="parsing_error")
