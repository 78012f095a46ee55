"""Arguments that fit as they are written stay what they are; others are bent to the schema."""

from typing import Any

import pytest

from dgemma_backend.chat.arguments import Bare
from dgemma_backend.chat.coercion import coerced

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}


def one(value: Any, schema: dict[str, Any]) -> Any:
    """The single argument `a` under its schema."""
    return coerced({"a": value}, {"type": "object", "properties": {"a": schema}})["a"]


@pytest.mark.parametrize(
    ("value", "schema", "wanted"),
    [
        ("3", {"anyOf": [INTEGER, STRING]}, "3"),
        (Bare("3"), {"anyOf": [STRING, INTEGER]}, 3),
        (Bare("3"), STRING, "3"),
        ("3", INTEGER, 3),
        (Bare("3.0"), INTEGER, 3),
        ("true", {"type": ["boolean", "string"]}, "true"),
        (Bare("true"), {"anyOf": [STRING, {"type": "boolean"}]}, True),
        (Bare("1"), {"enum": ["1", True, 1]}, 1),
        ('{"k": 1}', {"anyOf": [{"type": "object"}, STRING]}, '{"k": 1}'),
        ('{"k": 1}', {"type": "object"}, {"k": 1}),
        (
            {"n": Bare("5")},
            {"anyOf": [{"properties": {"n": STRING}}, {"properties": {"n": INTEGER}}]},
            {"n": 5},
        ),
        ([Bare("5"), "x"], {"items": {"anyOf": [STRING, INTEGER]}}, [5, "x"]),
    ],
)
def test_a_value_is_what_it_was_written_as_where_that_fits(
    value: Any, schema: dict[str, Any], wanted: Any
) -> None:
    found = one(value, schema)
    assert found == wanted
    assert type(found) is type(wanted)


def test_schemas_that_lead_nowhere_or_everywhere_end() -> None:
    loop: dict[str, Any] = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}
    assert coerced({"a": Bare("1")}, loop) == {"a": 1}
    deep: Any = Bare("1")
    for _ in range(60):
        deep = [deep]
    wide = {"$defs": {"t": {"anyOf": [{"items": {"$ref": "#/$defs/t"}, "type": "array"}] * 3}}}
    assert "a" in coerced({"a": deep}, {**wide, "properties": {"a": {"$ref": "#/$defs/t"}}})
