"""Varied JSON schemas: some as people write them, any number out of a generator."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}


def record(*, only: list[str] | None = None, **properties: Any) -> Schema:
    """An object; all members are required unless `only` names them."""
    return record_of(properties, only)


def record_of(properties: Schema, only: list[str] | None = None) -> Schema:
    """An object whose members may have any names."""
    required = list(properties) if only is None else only
    return {"type": "object", "properties": properties, "required": required}


TREE: Schema = {
    "$defs": {
        "node": record(
            value=INTEGER, children={"type": "array", "items": {"$ref": "#/$defs/node"}},
        ),
    },
    "$ref": "#/$defs/node",
}  # fmt: skip
CHAIN: Schema = {
    "$defs": {
        "item": record(
            only=["word"], word=STRING,
            next={"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]},
        ),
    },
    "$ref": "#/$defs/item",
}  # fmt: skip

WRITTEN: list[Any] = [
    True,
    {"type": "object"},
    {"type": "array"},
    STRING,
    INTEGER,
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"]},
    {"type": ["integer", "boolean"]},
    record(name=STRING, age=INTEGER),
    record(only=["name"], name=STRING, age={"type": "integer", "minimum": 0, "maximum": 120}),
    record(only=[], a=INTEGER, b=INTEGER, c={"type": "boolean"}),
    record(only=["b"], a=INTEGER, b=STRING, c=INTEGER, d={"type": "null"}),
    {**record(x=INTEGER), "additionalProperties": False},
    {"type": "object", "additionalProperties": INTEGER},
    {"type": "object", "additionalProperties": {"enum": ["on", "off"]},
     "propertyNames": {"enum": ["left", "right"]}},
    {"type": "object", "additionalProperties": INTEGER,
     "propertyNames": {"pattern": "^[a-z]{1,4}$"}},
    {"type": "object", "additionalProperties": False},
    {"type": "object", "properties": {"a": STRING}, "required": ["a", "b"]},
    record(place=record(city=STRING, zip={"type": "string", "pattern": r"^\d{5}$"}),
           ok={"const": True}),
    {"type": "array", "items": INTEGER},
    {"type": "array", "items": STRING, "minItems": 1, "maxItems": 3},
    {"type": "array", "items": INTEGER, "minItems": 2},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 4},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [STRING, INTEGER], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [INTEGER, STRING], "items": {"type": "null"}},
    {"type": "array", "prefixItems": [INTEGER, STRING, INTEGER], "minItems": 1, "maxItems": 2},
    {"type": "array", "items": {"type": "array", "items": INTEGER, "maxItems": 2}, "maxItems": 2},
    {"enum": ["red", "green", "blue"]},
    {"enum": [1, 12, "1", None, True, 2.5, [1, "a"], {"b": 1, "a": []}]},
    {"type": "string",
     "enum": ["caf\u00e9", 'a"b', "back\\slash", "line\nend", "\u0001", "\U0001f600"]},
    {"type": "integer", "enum": [1, "1", 3]},
    {"const": {"k": [1, 2, None]}},
    {"const": ""},
    {"anyOf": [INTEGER, STRING, {"type": "null"}]},
    {"anyOf": [record(a=INTEGER), record(b=STRING)]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    {"oneOf": [record(kind={"const": "cat"}, lives=INTEGER),
               record(kind={"const": "dog"}, tricks=STRING)]},
    {"$defs": {"cat": record(only=["lives"], kind={"const": "cat"}, lives=INTEGER),
               "dog": record(only=[], kind={"enum": ["dog", "wolf"]}, lives=INTEGER)},
     "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
     "discriminator": {"propertyName": "kind"}},
    {"oneOf": [{"type": "integer", "maximum": 0}, {"type": "integer", "minimum": 1}]},
    {"allOf": [record(a=INTEGER), record(b=STRING)]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 30}, {"minimum": 10}]},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "maxLength": 12},
    {"type": "string", "minLength": 3},
    {"type": "string", "pattern": "^[A-Z][a-z]+$"},
    {"type": "string", "pattern": "cat|dog", "maxLength": 6},
    {"type": "string", "pattern": "^(foo|ba[rz])-?[0-9]{2,3}$"},
    {"type": "string", "pattern": r"^\w+@\w+\.com$", "maxLength": 20},
    {"type": "string", "pattern": r"[^\d\s]{3}$", "maxLength": 9},
    {"type": "string", "pattern": '^"[^"]*"$', "maxLength": 10},
    {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "z$"}], "maxLength": 8},
    *({"type": "string", "format": each} for each in (
        "date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri",
    )),
    {"type": "integer", "minimum": -5, "maximum": 17},
    {"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 1234},
    {"type": "integer", "minimum": 1000},
    {"type": "integer", "maximum": -20},
    {"type": "integer", "multipleOf": 6, "minimum": -100, "maximum": 500},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -0.5, "exclusiveMaximum": 2.75},
    {"type": "number", "minimum": 12.34},
    {"type": "number", "multipleOf": 5, "maximum": 1000},
    {"$defs": {"n": {"type": "integer", "minimum": 1}},
     "type": "array", "items": {"$ref": "#/$defs/n"}},
    {"definitions": {"s": STRING},
     "type": "object", "properties": {"s": {"$ref": "#/definitions/s"}}},
    TREE,
    CHAIN,
    {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}, "minItems": 1},
    {"title": "T", "description": "d", "default": 1, "examples": [2], "type": "integer"},
    record_of({"a b": INTEGER, 'q"': STRING, "\u00fc": INTEGER, "": INTEGER}),
]  # fmt: skip


def for_llguidance(schema: Any) -> Any:
    """The schema without what llguidance 1.9 does not know or gets wrong.

    It refuses `uniqueItems`, `propertyNames` and most `oneOf`, which is weakened to `anyOf`. Bounds
    of numbers go too: it refuses 2.7 where 2.70 is below a bound, and -0.690 below 357.
    """
    if isinstance(schema, list):
        return [for_llguidance(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = ["uniqueItems", "propertyNames"]
    if schema.get("type") == "number":
        dropped += ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
    return {
        "anyOf" if key == "oneOf" else key: for_llguidance(value)
        for key, value in schema.items()
        if key not in dropped
    }


_WORDS = ("id", "name", "size", "kind", "note", "Total", "x", "when", "tags", "is_ok")


def generated(seed: int) -> Schema:
    """A schema out of the keywords that are guaranteed, up to three levels deep."""
    return _any_schema(random.Random(seed), 3)


def _any_schema(draw: random.Random, depth: int) -> Schema:
    leaves: list[Callable[[random.Random], Schema]] = [_number, _string, _enum, _simple]
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(leaves)(draw)
    kind = draw.choice(["object", "object", "array", "anyOf"])
    if kind == "array":
        found: Schema = {"type": "array", "items": _any_schema(draw, depth - 1)}
        low = draw.choice([None, 0, 1, 2])
        high = draw.choice([None, 2, 3])
        found |= {} if low is None else {"minItems": low}
        return found | ({} if high is None else {"maxItems": high})
    if kind == "anyOf":
        return {"anyOf": [_any_schema(draw, depth - 1) for _ in range(draw.randint(2, 3))]}
    names = draw.sample(_WORDS, draw.randint(1, 5))
    return {
        "type": "object",
        "properties": {name: _any_schema(draw, depth - 1) for name in names},
        "required": [name for name in names if draw.random() < 0.6],
        "additionalProperties": False,
    }


def _number(draw: random.Random) -> Schema:
    low: float
    high: float
    if draw.random() < 0.5:
        found: Schema = {"type": "integer"}
        low = draw.randint(-200, 200)
        high = low + draw.randint(0, 2000)
    else:
        found = {"type": "number"}
        unit = draw.choice([1, 1, 1, 1, 8])  # llguidance judges bounds without a fraction only
        low = draw.randint(-2000, 2000) / unit
        high = low + draw.randint(1, 4000) / unit
    if draw.random() < 0.6:
        found[draw.choice(["minimum", "exclusiveMinimum"])] = low
    if draw.random() < 0.6:
        found[draw.choice(["maximum", "exclusiveMaximum"])] = high + 2
    return found


def _string(draw: random.Random) -> Schema:
    found: Schema = {"type": "string"}
    kind = draw.random()
    if kind < 0.3:
        found["minLength"] = draw.randint(0, 3)
        found["maxLength"] = found["minLength"] + draw.randint(0, 12)
    elif kind < 0.5:
        letters = draw.choice(["[a-z]", "[A-F0-9]", r"\w", "[^a]", r"\d", "(ab|c)"])
        found["pattern"] = f"^{letters}{{1,{draw.randint(2, 6)}}}$"
    elif kind < 0.6:
        found["format"] = draw.choice(["date", "uuid", "ipv4"])
    return found


def _enum(draw: random.Random) -> Schema:
    values: list[Any] = ["red", "green", "a b", "", 7, -3, 2.5, None, True, "\u00e9t\u00e9"]
    return {"enum": draw.sample(values, draw.randint(1, 4))}


def _simple(draw: random.Random) -> Schema:
    return {"type": draw.choice(["boolean", "null", "integer", "number"])}
