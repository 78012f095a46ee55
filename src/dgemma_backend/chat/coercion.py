"""Raw arguments of a tool call -> JSON data of the types the tool's schema asks for.

Nothing here raises and nothing is lost: a value that does not fit its schema is kept as it was
written, and the tool's own validation can say what is wrong with it. A value that fits as it is
written (quoted a string, bare a number, truth or null) is never read as anything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from dgemma_backend.chat.arguments import MAX_DEPTH, Bare

MAX_REFERENCES = 16
MAX_COMPARISONS = 10_000

_MISFIT = object()


def coerced(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as its tool's `parameters` schema wants them."""
    return _Coercion(parameters).members(arguments, parameters)


class _Coercion:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.depth = 0
        self.comparisons = self.nested = 0

    def members(self, members: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
        known = _mapping(schema.get("properties"))
        others = _mapping(schema.get("additionalProperties"))
        return {
            name: self.value(value, _mapping(known.get(name, others)))
            for name, value in members.items()
        }

    def value(self, value: Any, schema: Mapping[str, Any]) -> Any:
        if isinstance(value, Bare) and value.text == "null":
            return None
        if not schema or self.depth >= MAX_DEPTH:
            return _guess(value)
        as_written = _guess(value)
        if self.conforms(as_written, schema):
            return as_written
        self.depth += 1
        try:
            for alternative in self.alternatives(schema, value):
                for kind in _types(alternative):
                    fitted = self.fit(value, kind, alternative)
                    if fitted is not _MISFIT:
                        return fitted
        finally:
            self.depth -= 1
        return _guess(value)

    def conforms(self, value: Any, schema: Any) -> bool:
        """Whether JSON data has the types and names `schema` asks for; False where in doubt."""
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS or self.nested > 2 * MAX_DEPTH:
            return False
        if not isinstance(schema, Mapping):
            return schema is not False
        self.nested += 1
        try:
            return self.conforms_to(value, self.resolved(schema))
        finally:
            self.nested -= 1

    def conforms_to(self, value: Any, schema: Mapping[str, Any]) -> bool:
        for keyword, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
            choices = schema.get(keyword)
            if isinstance(choices, list) and not enough(
                self.conforms(value, choice) for choice in choices
            ):
                return False
        if "const" in schema and not _same(value, schema["const"]):
            return False
        values = schema.get("enum")
        if isinstance(values, list) and not any(_same(value, each) for each in values):
            return False
        kinds = _types(schema) if "type" in schema else []
        if kinds and not any(_is_a(value, kind) for kind in kinds):
            return False
        if isinstance(value, dict):
            return self.conforming_members(value, schema)
        items = schema.get("items", True)
        return not isinstance(value, list) or all(self.conforms(each, items) for each in value)

    def conforming_members(self, members: dict[str, Any], schema: Mapping[str, Any]) -> bool:
        known = _mapping(schema.get("properties"))
        others = schema.get("additionalProperties", True)
        return set(_names(schema.get("required"))) <= members.keys() and all(
            self.conforms(value, known.get(name, others)) for name, value in members.items()
        )

    def alternatives(self, schema: Mapping[str, Any], value: Any) -> list[Mapping[str, Any]]:
        """The schemas `value` may follow, likeliest first."""
        schema = self.resolved(schema)
        every = schema.get("allOf")
        for part in every if isinstance(every, list) else ():
            schema = {**self.resolved(_mapping(part)), **schema}
        choices = schema.get("anyOf") or schema.get("oneOf")
        if not isinstance(choices, list):
            return [schema]
        found = [self.resolved(_mapping(choice)) for choice in choices]
        if isinstance(value, dict):
            found.sort(key=lambda choice: not set(_names(choice.get("required"))) <= set(value))
        return found

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema a local reference leads to."""
        for _ in range(MAX_REFERENCES):
            reference = schema.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            found: Any = self.root
            for step in reference[2:].split("/"):
                found = _mapping(found).get(step)
            schema = {**_mapping(found), **{k: v for k, v in schema.items() if k != "$ref"}}
        return schema

    def fit(self, value: Any, kind: str, schema: Mapping[str, Any]) -> Any:
        """`value` as a `kind`, or _MISFIT."""
        if kind == "object":
            value = _from_json(value, "{")
            return self.members(value, schema) if isinstance(value, dict) else _MISFIT
        if kind == "array":
            value = _from_json(value, "[")
            items = _mapping(schema.get("items"))
            return [self.value(v, items) for v in value] if isinstance(value, list) else _MISFIT
        if not isinstance(value, Bare | str):
            return _MISFIT
        text = value.text if isinstance(value, Bare) else value
        if kind == "string":
            return text
        if kind in ("integer", "number"):
            return _number(text, whole=kind == "integer")
        if kind == "boolean":
            return {"true": True, "false": False}.get(text.lower(), _MISFIT)
        return _MISFIT


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value, as it was written, is of a JSON type; 3.0 is no integer here."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int):
        return kind in ("integer", "number")
    kinds = {float: "number", str: "string", dict: "object", list: "array", type(None): "null"}
    return kinds.get(type(value)) == kind


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON data, where true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _types(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, list):
        # a bare 3 fits a string too, so the narrower types are asked first
        return sorted((str(each) for each in kind), key=lambda each: each == "string")
    if isinstance(kind, str):
        return [kind]
    if "properties" in schema:
        return ["object"]
    return ["array"] if "items" in schema else []


def _guess(value: Any) -> Any:
    """JSON data for a value no schema speaks about."""
    if isinstance(value, dict):
        return {name: _guess(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_guess(each) for each in value]
    if not isinstance(value, Bare):
        return value
    if value.text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[value.text]
    number = _number(value.text, whole=False)
    return value.text if number is _MISFIT else number


def _number(text: str, *, whole: bool) -> Any:
    """The JSON number `text` spells, or _MISFIT."""
    text = text.strip()
    if not text or text[-1] not in "0123456789" or text[0] not in "-0123456789":
        return _MISFIT
    try:
        number = json.loads(text)
    except ValueError:  # also for whole numbers of thousands of digits
        return _MISFIT
    if isinstance(number, float):
        if not math.isfinite(number):
            return _MISFIT
        if whole:
            return int(number) if number.is_integer() else _MISFIT
    return number


def _from_json(value: Any, opening: str) -> Any:
    """A quoted string that spells a list or object in JSON, read; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith(opening):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return value if _too_deep(read) else read
    return value


def _too_deep(value: Any) -> bool:
    """Whether JSON data is nested deeper than calls may be."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else []
