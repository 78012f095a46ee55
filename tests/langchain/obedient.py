"""A model without weights that does as it is told, as far as rules can: an engine plugin.

It calls a declared tool when it has to, or when the user's words name what the tool does; it fills
arguments and answers by their schema, with the numbers, quoted words and names it finds in what
the user said; it reports a tool's result; and it says something back otherwise. It knows nothing
of any particular tool, schema or question.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dgemma_backend import Message, ScriptedEngine, Tool, ToolCall
from dgemma_backend.hookspecs import EngineRecord, hookimpl
from dgemma_backend.runtime.request import Request

opened: list[ScriptedEngine] = []
defaults: dict[str, Any] = {}
"""Options of engines that are not told otherwise."""


@hookimpl
def dgemma_engines() -> Iterable[EngineRecord]:
    return [EngineRecord("obedient", "obedient:open_obedient", summary="does as it is told")]


def open_obedient(model: str, *, plugins: Any, **options: Any) -> ScriptedEngine:
    for name in ("device", "dtype", "kernels", "quantization"):
        options.pop(name, None)
    engine = ScriptedEngine(answer, name=model, plugins=plugins, **{**defaults, **options})
    opened.append(engine)
    return engine


def answer(request: Request) -> Message:
    """What the model says to a request."""
    thought = "They asked, so I answer." if request.settings.thinking else None
    said = _last_words(request)
    call = _call(request, said)
    if call is not None:
        return Message.assistant("", tool_calls=[call], reasoning=thought)
    return Message.assistant(_text(request, said), reasoning=thought)


def _last_words(request: Request) -> str:
    return next((each.text for each in reversed(request.messages) if each.role == "user"), "")


def _call(request: Request, said: str) -> ToolCall | None:
    choice = request.tool_choice
    mode = choice.mode if choice is not None else "auto"
    if mode == "none" or not request.tools:
        return None
    best = max(request.tools, key=lambda tool: _kinship(tool, said))
    if choice is not None and mode == "named":
        best = next(tool for tool in request.tools if tool.name == choice.name)
    elif mode == "auto" and (request.messages[-1].role != "user" or not _kinship(best, said)):
        return None
    arguments = Filling(said, best.parameters).value(best.parameters)
    return ToolCall("told later", best.name, arguments)


def _kinship(tool: Tool, said: str) -> int:
    """Words that a tool's name and description have in common with what was said."""
    return len(_words(f"{tool.name} {tool.description}") & _words(said))


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[\W_]+", text.lower()) if len(word) > 3}


def _text(request: Request, said: str) -> str:
    wanted = request.response_format
    if wanted is None:
        last = request.messages[-1]
        return f"The result is {last.text}." if last.role == "tool" else f"So be it: {said}"
    if wanted.kind == "choices":
        texts: tuple[str, ...] = wanted.value
        return next((text for text in texts if text.lower() in said.lower()), texts[0])
    assert wanted.kind == "json_schema"
    return json.dumps(Filling(said, wanted.value).value(wanted.value), ensure_ascii=False)


class Filling:
    """Values for a schema out of a text, each part of the text used once if there are enough."""

    def __init__(self, text: str, whole: Mapping[str, Any]) -> None:
        self._text = text
        self._whole = whole
        self._numbers = iter(re.findall(r"-?\d+(?:\.\d+)?", text))
        self._phrases = _phrases(text)

    def value(self, schema: Mapping[str, Any]) -> Any:
        """A value that the schema accepts."""
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            named = (each for each in schema["enum"] if str(each).lower() in self._text.lower())
            return next(named, schema["enum"][0])
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next(each for each in kind if each != "null")
        made: Any = getattr(self, f"_{kind}")(schema)
        return made

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" in schema:
            place: Any = self._whole
            for step in schema["$ref"].removeprefix("#/").split("/"):
                place = place[step]
            return self._resolved(place)
        for several in ("anyOf", "oneOf", "allOf"):
            if several in schema:
                kinds = [each for each in schema[several] if each.get("type") != "null"]
                return self._resolved(kinds[0])
        return schema

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        properties = schema.get("properties")
        if properties is None:  # a free object: its keys were quoted
            return dict.fromkeys(_quoted(self._text), self._text)
        return {name: self.value(each) for name, each in properties.items()}

    def _array(self, schema: Mapping[str, Any]) -> list[Any]:
        items = schema.get("items", {})
        return [self.value(items) for _ in range(max(1, schema.get("minItems", 1)))]

    def _string(self, schema: Mapping[str, Any]) -> str:
        del schema
        return next(self._phrases)

    def _number(self, schema: Mapping[str, Any]) -> float:
        return float(self._bounded(next(self._numbers, 1), schema, 0.5))

    def _integer(self, schema: Mapping[str, Any]) -> int:
        return int(self._bounded(next(self._numbers, 1), schema, 1))

    def _boolean(self, schema: Mapping[str, Any]) -> bool:
        del schema
        return True

    def _null(self, schema: Mapping[str, Any]) -> None:
        del schema

    def _bounded(self, found: object, schema: Mapping[str, Any], step: float) -> float:
        value = float(str(found))
        above = schema.get("exclusiveMinimum", value - step) + step
        below = schema.get("exclusiveMaximum", value + step) - step
        value = max(value, schema.get("minimum", value), above)
        return float(min(value, schema.get("maximum", value), below))


def _quoted(text: str) -> list[str]:
    return [one or two for one, two in re.findall(r"'([^']+)'|\"([^\"]+)\"", text)]


def _phrases(text: str) -> Iterator[str]:
    """Quoted words, then names in mid-sentence, then for ever the whole text."""
    yield from _quoted(text)
    yield from re.findall(r"(?<=[a-z,] )([A-Z]\w*(?:,? [A-Z]\w*)*)", text)
    while True:
        yield text
