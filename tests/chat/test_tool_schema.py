"""Tool declarations: what the template cannot express is put in order first."""

from typing import Any

import pytest

from dgemma_backend.chat.segments import SegmentWriter, segments_to_text
from dgemma_backend.chat.tool_schema import normalised, write_declaration
from dgemma_backend.errors import PromptError
from dgemma_backend.messages import Tool


def declared(tool: Tool) -> str:
    out = SegmentWriter()
    write_declaration(out, normalised(tool))
    return segments_to_text(out.segments).replace('<|"|>', "'")


def of_property(schema: Any, **more: Any) -> str:
    """How one property `p` is written."""
    text = declared(Tool("t", "", {"type": "object", "properties": {"p": schema}, **more}))
    return text.removeprefix(
        "declaration:t{description:'',parameters:{properties:{p:"
    ).removesuffix("},type:'OBJECT'}}")


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "string"}, "{type:'STRING'}"),
        ({"type": ["string", "null"]}, "{nullable:true,type:'STRING'}"),
        ({"type": ["null"]}, "{nullable:true,type:'STRING'}"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "{nullable:true,type:'INTEGER'}"),
        ({"anyOf": [{"type": "null"}]}, "{nullable:true,type:'STRING'}"),
        (
            {"anyOf": [{"type": "null"}, {"type": "string", "description": "in"}],
             "description": "out"},
            "{description:'out',nullable:true,type:'STRING'}",
        ),
        ({"oneOf": [{"type": "number"}, {"type": "string"}]}, "{type:'NUMBER'}"),
        ({"allOf": [{"type": "string"}, {"description": "d"}]}, "{description:'d',type:'STRING'}"),
        ({}, "{type:'STRING'}"),
        (True, "{type:'STRING'}"),
        ({"enum": [1, 2]}, "{type:'INTEGER'}"),
        ({"enum": ["a"]}, "{enum:['a'],type:'STRING'}"),
        ({"const": "a"}, "{enum:['a'],type:'STRING'}"),
        ({"type": "integer", "minimum": 1, "default": 3, "title": "P"}, "{type:'INTEGER'}"),
        ({"properties": {"b": {"type": "boolean"}}},
         "{properties:{b:{type:'BOOLEAN'}},type:'OBJECT'}"),
        ({"type": "object", "additionalProperties": False}, "{properties:{},type:'OBJECT'}"),
        ({"items": {"type": ["integer", "null"]}},
         "{items:{nullable:true,type:'INTEGER'},type:'ARRAY'}"),
        ({"type": "array", "items": {"type": "string", "enum": ["x"], "minLength": 1}},
         "{items:{enum:['x'],minLength:1,type:'STRING'},type:'ARRAY'}"),
        ({"type": "array", "items": {"type": "object", "properties": {"Z": {}, "a": {}},
                                     "required": ["a"]}},
         "{items:{properties:{a:{type:'STRING'},Z:{type:'STRING'}},required:['a'],type:'OBJECT'},"
         "type:'ARRAY'}"),
    ],
)  # fmt: skip
def test_a_schema_is_written_with_one_type_and_the_type_last(schema: Any, written: str) -> None:
    assert of_property(schema) == written


def test_references_into_the_schema_are_followed() -> None:
    place = {"type": "object", "properties": {"city": {"type": "string"}}, "title": "Place"}
    written = of_property(
        {"$ref": "#/$defs/Place", "description": "d"}, **{"$defs": {"Place": place}}
    )
    assert written == "{description:'d',properties:{city:{type:'STRING'}},type:'OBJECT'}"


def test_a_reference_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(PromptError, match=r"tool 't' refers to 'http://x/y', which it does not"):
        of_property({"$ref": "http://x/y"})


def test_a_schema_that_refers_to_itself_is_refused() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}}
    with pytest.raises(PromptError, match="deeper than 32 levels, or refers to itself"):
        of_property({"$ref": "#/$defs/Tree"}, **{"$defs": {"Tree": tree}})


def test_a_schema_that_unfolds_without_end_is_refused_soon() -> None:
    twice = {"left": {"$ref": "#/$defs/T"}, "right": {"$ref": "#/$defs/T"}}
    with pytest.raises(PromptError, match=r"tool 't' (unfolds to more than|is nested deeper)"):
        of_property({"$ref": "#/$defs/T"}, **{"$defs": {"T": {"properties": twice}}})
    bomb = {f"T{n}": {"properties": {f"p{m}": {"$ref": f"#/$defs/T{n + 1}"} for m in range(10)}}
            for n in range(9)}  # fmt: skip
    with pytest.raises(PromptError, match="unfolds to more than 4096 parts"):
        of_property({"$ref": "#/$defs/T0"}, **{"$defs": {**bomb, "T9": {}}})


def test_a_schema_nested_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    with pytest.raises(PromptError, match="tool 't' is nested deeper than 32 levels"):
        of_property(schema)


def test_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(PromptError, match="type 'string'; the arguments of a tool are always"):
        normalised(Tool("t", "", {"type": "string"}))


def test_parameters_without_a_type_are_closed_all_the_same() -> None:
    text = declared(Tool("t", "d", {"properties": {"p": {"type": "string"}}, "required": ["p"]}))
    assert text == (
        "declaration:t{description:'d',parameters:{properties:{p:{type:'STRING'}},"
        "required:['p'],type:'OBJECT'}}"
    )


def test_a_tool_without_parameters_has_only_a_description() -> None:
    assert declared(Tool("now", "Time.")) == "declaration:now{description:'Time.'}"
    empty = Tool("now", "Time.", {"type": "object", "properties": {}})
    assert declared(empty) == "declaration:now{description:'Time.',parameters:{type:'OBJECT'}}"
