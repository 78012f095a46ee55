"""JSON schemas: whatever is accepted is valid, and what cannot be guaranteed is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from dgemma_backend.constraint import ConstraintCompiler, json_schema_of, schema_errors
from dgemma_backend.errors import ConstraintError, MissingDependencyError, UnsupportedSchemaError

Accepts = Callable[..., bool]
Compilers = Callable[[int], ConstraintCompiler]
SCHEMAS = 100


@pytest.mark.parametrize("number", range(SCHEMAS))
def test_two_strangers_accept_every_output(
    judges: Any, tiny: ConstraintCompiler, random_compiler: Compilers, number: int
) -> None:
    written = judges.samples.WRITTEN
    generated = number >= len(written)
    schema = judges.samples.generated(number) if generated else written[number]
    compiler = random_compiler(number % 4) if number % 2 else tiny
    judges.judge(compiler, schema, number, 4)


def test_the_strangers_look_closely(judges: Any, tiny: ConstraintCompiler) -> None:
    schemas = [*judges.samples.WRITTEN, *map(judges.samples.generated, range(20))]
    assert sum(judges.samples.for_llguidance(each) == each for each in schemas) > 75
    assert not judges.Guidance({"type": "integer"}).accepts("1.5")
    with pytest.raises(AssertionError, match="is not of type 'string'"):
        judges.judge(_Swapped(tiny, {"type": "integer"}), {"type": "string"}, 0, 1)


class _Swapped:
    """A compiler that answers another schema than it was asked for."""

    def __init__(self, compiler: ConstraintCompiler, schema: Any) -> None:
        self.vocabulary = compiler.vocabulary
        self.constraint = compiler.schema(schema)

    def schema(self, schema: Any) -> Any:
        return self.constraint


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "integer"}, ["0", "-7", "12345"], ["01", "-0", "1.0", "", "1" * 20]),
        ({"type": "number"}, ["0.5", "-1e3", "2E-5"], [".5", "1.", "1e", "1e400"]),
        ({"enum": [1, 12]}, ["1", "12"], ["2", "121"]),
        ({"type": "number", "minimum": -0.0, "maximum": 1e300}, ["0", "0.1", "12"], ["-1", "-0"]),
        ({"type": "number", "exclusiveMaximum": 1}, ["0.99999999999999", "-5"],
         ["1", "1.0", "0.99999999999999999999"]),
        ({"type": "integer", "minimum": -1.5, "exclusiveMaximum": 2.0}, ["-1", "1"], ["-2", "2"]),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, ["1.5", "3"], ['"3"']),
        ({"type": ["string", "null"]}, ['"a"', "null"], ["1"]),
        (
            {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
             "required": ["b"]},
            ['{"a": null, "b": null}', '{"a":null,"b":null}', '{"b": null}'],
            ['{"a": null}', '{"b": null, "a": null}', "{}", '{"b":  null}', '{ "b": null}',
             '{"b": null, }', '{"b": null, "c": null}'],
        ),
        (
            {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
            ["[null]", "[null, null]", "[null,null]"], ["[]", "[null, null, null]", "[null,]"],
        ),
        (
            {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3},
             "minItems": 1},
            ["[1]", "[1, 2]", "[1, 2, 3, 3]"], ["[]", "[2]", "[1, 3]"],
        ),
        ({"type": "string", "minLength": 1, "maxLength": 2}, ['"é"', '"\\n\\""'], ['""', '"abc"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"a"', '""']),
        ({"type": "string", "pattern": "^\\S+$", "maxLength": 2}, ['"ab"'], ['"a b"', '"abc"']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2000-02-29"', '"0001-01-31"'],
         ['"2023-02-29"', '"1900-02-29"', '"2024-04-31"', '"0000-01-01"', '"2024-13-01"']),
        ({"type": "string", "format": "ipv6"}, ['"::"', '"1::2"', '"1:2:3:4:5:6:7:8"', '"1::"'],
         ['"1:2"', '"1::2::3"', '":::"', '"1:2:3:4:5:6:7:8:9"']),
        ({"type": "string", "format": "time"}, ['"23:59:59Z"', '"00:00:00.5+01:30"'],
         ['"24:00:00Z"', '"12:00:00"', '"12:60:00Z"']),
        ({"type": "string", "format": "uri"}, ['"https://a.bc/x?y=1#z"'], ['"a.bc"', '"http://"']),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True},
         ["[]", '["a", "c"]', '["b"]'], ['["a", "a"]', '["c", "a"]']),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": "number"}], "maximum": 3},
         ["3", "-1"], ["4", "2.5", '"a"']),
        ({"anyOf": [{"minLength": 2}, {"maxLength": 0}], "type": "string"}, ['""', '"ab"'],
         ['"a"']),
        ({"type": "object", "properties": {"k": {"$ref": "#/$defs/a~1b"}}, "required": ["k"],
          "$defs": {"a/b": {"const": "x"}}}, ['{"k": "x"}'], ['{"k": "y"}']),
        ({"x-order": 3, "type": "null", "title": "t"}, ["null"], []),
        ({"enum": [True, 1]}, ["true", "1"], ["1.0"]),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"const": 1}}}, ["1"], ["2"]),
        ({"allOf": [{"enum": [1, True, "a", [1]]}, {"enum": [1.0, [1.0], "b"]}]}, ["1", "[1]"],
         ["true", '"a"']),
        ({"enum": [{1: (2, 3)}]}, ['{"1": [2, 3]}'], ["{}"]),
        ({"const": "\ud800"}, ['"\\ud800"'], ['"d800"']),
    ],
)  # fmt: skip
def test_values_are_in_and_out_as_the_schema_says(
    tiny: ConstraintCompiler, accepts: Accepts, schema: Any, valid: list[str], invalid: list[str]
) -> None:
    constraint = tiny.schema(schema)
    assert [text for text in valid if not accepts(constraint, text)] == []
    assert [text for text in invalid if accepts(constraint, text)] == []
    plain = json.loads(json.dumps(schema))
    for text in valid:
        assert schema_errors(plain, json.loads(text)) == []


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"not": {"type": "integer"}}, "#/not"),
        ({"type": "object", "properties": {"a": {"if": {}}}}, "#/properties/a/if"),
        ({"type": "object", "patternProperties": {"a": {}}}, "#/patternProperties"),
        ({"type": "object", "properties": {"a/b": {"type": "array", "contains": {}}}},
         "#/properties/a~1b/contains"),
        ({"type": "object", "minProperties": 1}, "#/minProperties"),
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
        ({"type": "string", "format": "iri"}, "#/format"),
        ({"type": "string", "pattern": "(?=a)b"}, "#/pattern"),
        ({"type": "string", "pattern": "(a"}, "#/pattern"),
        ({"type": "string", "maxLength": 5000}, "#/maxLength"),
        ({"type": "number", "multipleOf": 0.01}, "#/multipleOf"),
        ({"enum": ["a", "b"], "pattern": "a"}, "#/pattern"),
        ({"anyOf": [{"type": "string"}, {"items": [{}]}]}, "#/anyOf/1/items"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf"),
        ({"oneOf": [{"properties": {"a": {"type": "integer"}}},
                    {"properties": {"b": {"type": "integer"}}}]}, "#/oneOf"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"dependentRequired": {}}}},
         "#/$defs/a/dependentRequired"),
        ({"allOf": [{"format": "date"}, {"format": "time"}]}, "#/format"),
        ({"allOf": [{"additionalProperties": {"type": "null"}},
                    {"properties": {"a": {}}}]}, "#/additionalProperties"),
    ],
)  # fmt: skip
def test_what_cannot_be_guaranteed_is_refused_by_its_place(
    tiny: ConstraintCompiler, schema: Any, pointer: str
) -> None:
    with pytest.raises(UnsupportedSchemaError, match="cannot be guaranteed at #") as caught:
        tiny.schema(schema)
    assert caught.value.pointer == pointer
    assert pointer in str(caught.value)
    assert tiny.schema(schema, on_unsupported="validate").left_out == (pointer,)


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "strin"}, "#/type"),
        ({"type": "object", "properties": []}, "#/properties"),
        ({"type": "object", "required": "a"}, "#/required"),
        ({"type": "array", "minItems": -1}, "#/minItems"),
        ({"type": "array", "items": 3}, "#/items"),
        ({"type": "string", "maxLength": 1.5}, "#/maxLength"),
        ({"type": "string", "pattern": 3}, "#/pattern"),
        ({"type": "integer", "minimum": "1"}, "#/minimum"),
        ({"type": "integer", "multipleOf": 0}, "#/multipleOf"),
        ({"enum": []}, "#/enum"),
        ({"anyOf": []}, "#/anyOf"),
        ({"allOf": {}}, "#/allOf"),
        ({"$ref": "#/$defs/none"}, "#"),
        ({"$ref": "https://example.com/schema"}, "#"),
        ({"$ref": "#anchor"}, "#"),
        ({"allOf": [3]}, "#"),
    ],
)
def test_what_is_no_schema_is_refused_even_when_lenient(
    tiny: ConstraintCompiler, schema: Any, pointer: str
) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        tiny.schema(schema, on_unsupported="validate")
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "pattern": "^a$", "minLength": 2},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"enum": ["a"], "type": "integer"},
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]},
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused(tiny: ConstraintCompiler, schema: Any) -> None:
    with pytest.raises(ConstraintError, match="no answer can have this form"):
        tiny.schema(schema)


def test_references_are_followed_to_the_stated_depth(
    tiny: ConstraintCompiler, accepts: Accepts, judges: Any
) -> None:
    constraint = tiny.schema(judges.samples.CHAIN)

    def nested(depth: int) -> str:
        return '{"word": "a", "next": ' * depth + "null" + "}" * depth

    assert accepts(constraint, nested(6))
    assert not accepts(constraint, nested(7))


def test_free_values_are_as_deep_as_stated(tiny: ConstraintCompiler, accepts: Accepts) -> None:
    constraint = tiny.schema(True)
    assert accepts(constraint, '[{"a": 1}]')
    assert not accepts(constraint, '[{"a": []}]')


class Colour(BaseModel):
    name: str
    red: int | None = None


def test_types_that_pydantic_understands_are_schemas(
    tiny: ConstraintCompiler, accepts: Accepts
) -> None:
    assert json_schema_of(Colour) == Colour.model_json_schema()
    constraint = tiny.schema(list[Colour])
    assert accepts(constraint, '[{"name": "x", "red": null}, {"name": "y"}]')
    assert tiny.schema(Colour) is tiny.schema(Colour.model_json_schema())


@pytest.mark.parametrize("source", [3, object(), lambda: None])
def test_what_is_no_schema_at_all_is_refused(source: Any) -> None:
    with pytest.raises(ConstraintError, match="JSON schema"):
        json_schema_of(source)


def test_a_type_needs_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydantic", None)
    assert json_schema_of({"type": "null"}) == {"type": "null"}
    with pytest.raises(MissingDependencyError, match="pip install pydantic"):
        json_schema_of(Colour)


def test_checking_a_value_needs_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schema_errors({"type": "string", "format": "date"}, "2023-02-30") != []
    assert schema_errors({"type": "integer"}, "a") == ["$: 'a' is not of type 'integer'"]
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(MissingDependencyError, match="dgemma-backend\\[schema\\]"):
        schema_errors({}, 1)
