"""Two JSON schemas at once: what satisfies both, and whether anything does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

Schema = Mapping[str, Any]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "example", "$schema", "$id", "$comment",
    "$defs", "definitions", "$anchor", "deprecated", "readOnly", "writeOnly", "discriminator",
    "nullable", "contentMediaType",
})  # fmt: skip
"""Keywords that forbid nothing."""

KEYWORDS_OF = {
    "object": frozenset({
        "properties", "required", "additionalProperties", "propertyNames", "minProperties",
        "maxProperties",
    }),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    }),
}  # fmt: skip
"""Keywords that say something about one type, `integer` having those of `number`."""

_LARGER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_SMALLER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})


class CannotMerge(Exception):
    """Two schemas contradict in a keyword that cannot be combined; internal to this package."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


def is_annotation(keyword: str) -> bool:
    """Whether a keyword forbids nothing."""
    return keyword in ANNOTATIONS or keyword.startswith("x-")


def json_type(value: Any) -> str:
    """The JSON type of a value; a whole float is an integer too."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (float, "number"), (str, "string"), (Mapping, "object"), ((list, tuple), "array"),
    ]  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def declared_types(schema: Schema) -> list[str] | None:
    """What `type` says, as a list; None where it says nothing."""
    kinds = schema.get("type")
    return [kinds] if isinstance(kinds, str) else kinds


def merged(one: Schema, other: Schema) -> dict[str, Any]:
    """A schema whose instances satisfy both; raises CannotMerge."""
    result = {key: value for key, value in one.items() if not is_annotation(key)}
    closed = _closed(one, other)
    _check_additional(one, other)
    for keyword, value in other.items():
        if is_annotation(keyword):
            continue
        if keyword not in result or same(result[keyword], value):
            result[keyword] = value
        elif keyword == "type":
            result["type"] = _common_types(declared_types(one), declared_types(other))
        elif keyword in _LARGER:
            result[keyword] = max(result[keyword], value)
        elif keyword in _SMALLER:
            result[keyword] = min(result[keyword], value)
        elif keyword == "required":
            result[keyword] = [*result[keyword], *(n for n in value if n not in result[keyword])]
        elif keyword == "properties":
            result[keyword] = _both_properties(result[keyword], value)
        elif keyword == "enum":
            others = set(map(identity, value))
            result[keyword] = [each for each in result[keyword] if identity(each) in others]
        elif keyword in ("items", "propertyNames"):
            result[keyword] = {"allOf": [result[keyword], value]}
        elif keyword == "allOf":
            result[keyword] = [*result[keyword], *value]
        elif keyword == "uniqueItems":
            result[keyword] = True
        elif keyword == "pattern":  # several patterns are a tuple, which no JSON holds
            result[keyword] = (*_several(result[keyword]), *_several(value))
        elif keyword == "additionalProperties" and (value is True or result[keyword] is True):
            result[keyword] = result[keyword] if value is True else value
        elif keyword == "additionalProperties" and closed is not None:
            result[keyword] = False
        else:
            raise CannotMerge(keyword)
    if closed is not None:
        properties = result.get("properties", {})
        result["properties"] = {n: s if n in closed else False for n, s in properties.items()}
        result["additionalProperties"] = False
    return result


def _several(patterns: Any) -> tuple[Any, ...]:
    return patterns if isinstance(patterns, tuple) else (patterns,)


def _check_additional(one: Schema, other: Schema) -> None:
    """A schema for additional members would speak about the members only the other names."""
    for this, that in ((one, other), (other, one)):
        unknown = set(that.get("properties", {})) - set(this.get("properties", {}))
        if unknown and isinstance(this.get("additionalProperties"), Mapping):
            raise CannotMerge("additionalProperties")


def _closed(one: Schema, other: Schema) -> set[str] | None:
    """The only members that two closed schemas leave; None where neither is closed."""
    found: set[str] | None = None
    for each in (one, other):
        if each.get("additionalProperties") is False:
            names = set(each.get("properties", {}))
            found = names if found is None else found & names
    return found


def _both_properties(one: Schema, other: Schema) -> dict[str, Any]:
    result = dict(one)
    for name, schema in other.items():
        known = name in result and not same(result[name], schema)
        result[name] = {"allOf": [result[name], schema]} if known else schema
    return result


def _common_types(one: list[str] | None, other: list[str] | None) -> list[str]:
    found = [kind for kind in one or () if kind in (other or ())]
    for these, those in ((one or [], other or []), (other or [], one or [])):
        if "integer" in these and "number" in those and "integer" not in found:
            found.append("integer")
    return found


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1, but 1.0 is."""
    return identity(one) == identity(other)


def identity(value: Any) -> Hashable:
    """Equal for equal JSON values, and only for those."""
    if isinstance(value, Mapping):
        return frozenset((name, identity(each)) for name, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(identity, value))
    return (type(value) is bool, value)


def disjoint(one: Any, other: Any, resolved: Callable[[Any], Any], depth: int = 0) -> bool:
    """Whether it is certain that no value satisfies both schemas; False where in doubt.

    `resolved` follows the reference a schema consists of.
    """
    one, other = resolved(one), resolved(other)
    if one is False or other is False:
        return True
    if depth > 8 or not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return False
    for this, that in ((one, other), (other, one)):
        options = this.get("anyOf") or this.get("oneOf")
        if isinstance(options, list) and all(
            disjoint(option, that, resolved, depth + 1) for option in options
        ):
            return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return set(map(identity, values)).isdisjoint(map(identity, others))
    kinds, other_kinds = _possible_types(one), _possible_types(other)
    common = kinds & other_kinds
    if not common:
        return True
    if common == {"object"}:
        return _disjoint_objects(one, other, resolved, depth)
    if common <= {"integer", "number"}:
        return _disjoint_ranges(one, other)
    return False


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def _possible_types(schema: Schema) -> set[str]:
    values = _values(schema)
    if values is not None:
        return {json_type(value) for value in values}
    kinds = set(declared_types(schema) or TYPES)
    return kinds | {"integer"} if "number" in kinds else kinds


def _disjoint_objects(
    one: Schema, other: Schema, resolved: Callable[[Any], Any], depth: int
) -> bool:
    """Whether some member must be there and cannot be right for both."""
    for this, that in ((one, other), (other, one)):
        those = that.get("properties", {})
        for name in this.get("required", ()):
            if name not in those:
                if that.get("additionalProperties") is False:
                    return True
            elif disjoint(
                this.get("properties", {}).get(name, True), those[name], resolved, depth + 1
            ):
                return True
    return False


def _disjoint_ranges(one: Schema, other: Schema) -> bool:
    for low, high in ((one, other), (other, one)):
        for floor in ("minimum", "exclusiveMinimum"):
            for ceiling in ("maximum", "exclusiveMaximum"):
                a, b = low.get(floor), high.get(ceiling)
                if isinstance(a, int | float) and isinstance(b, int | float):
                    strict = floor == "minimum" and ceiling == "maximum"
                    if a > b or (a == b and not strict):
                        return True
    return False
