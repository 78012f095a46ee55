"""JSON schemas as Gemma 4 writes them into a prompt.

Two steps. `normalised` rewrites what the published template cannot express (a list of types,
`anyOf`, `$ref`, a missing type) as the nearest thing it can. `write_declaration` then renders the
declaration byte for byte as the template does: properties sorted by name, inside a property the
type last, and everything the template does not know left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dgemma_backend.chat.segments import SegmentWriter
from dgemma_backend.errors import PromptError
from dgemma_backend.messages import Tool

MAX_DEPTH = 32
MAX_PARTS = 4096

_ALREADY_WRITTEN = frozenset({"description", "type", "properties", "required", "nullable"})


def normalised(tool: Tool) -> Tool:
    """The tool with a schema of single types, no references and a type everywhere.

    Raises PromptError for a schema deeper than MAX_DEPTH or of more than MAX_PARTS parts, and for
    one that does not describe an object.
    """
    if not tool.parameters:
        return tool
    definitions: dict[str, Any] = {}
    for key in ("$defs", "definitions"):
        if isinstance(found := tool.parameters.get(key), Mapping):
            definitions.update({f"#/{key}/{name}": value for name, value in found.items()})
    parameters = _Normaliser(tool.name, definitions).schema(tool.parameters, 0)
    if parameters["type"] != "object":
        raise PromptError(
            f"the parameters of tool {tool.name!r} have type {parameters['type']!r}; the arguments "
            'of a tool are always an object: {"type": "object", "properties": {...}}'
        )
    return Tool(tool.name, tool.description, parameters)


class _Normaliser:
    def __init__(self, tool_name: str, definitions: Mapping[str, Any]) -> None:
        self.tool_name = tool_name
        self.definitions = definitions
        self.parts = 0

    def schema(self, schema: Any, depth: int) -> dict[str, Any]:
        if depth > MAX_DEPTH:
            raise PromptError(
                f"the schema of tool {self.tool_name!r} is nested deeper than {MAX_DEPTH} levels, "
                "or refers to itself"
            )
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise PromptError(
                f"the schema of tool {self.tool_name!r} unfolds to more than {MAX_PARTS} parts"
            )
        if not isinstance(schema, Mapping):
            schema = {}  # `true` and other schemas that allow anything
        result = {str(key): value for key, value in schema.items()}
        for key in ("$defs", "definitions"):
            result.pop(key, None)
        result = self._without_reference(result, depth)
        result = self._without_alternatives(result, depth)
        self._settle_type(result)
        if isinstance(result.get("properties"), Mapping):
            result["properties"] = {
                str(name): self.schema(value, depth + 1)
                for name, value in result["properties"].items()
            }
        if isinstance(result.get("items"), Mapping):
            result["items"] = self.schema(result["items"], depth + 1)
        return result

    def _without_reference(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        reference = schema.pop("$ref", None)
        if reference is None:
            return schema
        if reference not in self.definitions:
            raise PromptError(
                f"the schema of tool {self.tool_name!r} refers to {reference!r}, which it does not "
                "define; only references into its own $defs are followed"
            )
        return {**self.schema(self.definitions[reference], depth + 1), **schema}

    def _without_alternatives(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """The first alternative that is not null stands for all of them."""
        for key in ("anyOf", "oneOf", "allOf"):
            choices = schema.pop(key, None)
            if not isinstance(choices, list) or not choices:
                continue
            parts = [self.schema(choice, depth + 1) for choice in choices]
            if key == "allOf":
                for part in parts:
                    schema = {**part, **schema}
                continue
            real = [part for part in parts if part.get("type") != "null"]
            if len(real) < len(parts):
                schema["nullable"] = True
            schema = {**(real[0] if real else {"type": "string"}), **schema}
        return schema

    def _settle_type(self, schema: dict[str, Any]) -> None:
        kind = schema.get("type")
        if isinstance(kind, list):
            real = [each for each in kind if each != "null"]
            if len(real) < len(kind):
                schema["nullable"] = True
            schema["type"] = str(real[0]) if real else "string"
        elif not isinstance(kind, str):
            schema["type"] = _implied_type(schema)
        if "const" in schema and "enum" not in schema:
            schema["enum"] = [schema.pop("const")]


def _implied_type(schema: Mapping[str, Any]) -> str:
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const", "")]
    kinds = {bool: "boolean", int: "integer", float: "number"}
    return kinds.get(type(values[0]), "string") if values else "string"


def write_declaration(out: SegmentWriter, tool: Tool) -> None:
    """Append `declaration:NAME{...}`; the caller puts it between `<|tool>` and `<tool|>`."""
    out.text(f"declaration:{tool.name}{{description:")
    out.quoted(tool.description)
    schema = tool.parameters
    if schema:
        out.text(",parameters:{")
        if properties := schema.get("properties"):
            out.text("properties:{")
            _write_properties(out, properties)
            out.text("},")
        if required := schema.get("required"):
            _write_required(out, required)
            out.text(",")
        if kind := schema.get("type"):
            out.text("type:")
            out.quoted(_upper(kind))
            out.text("}")
    out.text("}")


def _write_properties(
    out: SegmentWriter, properties: Mapping[str, Any], skip: frozenset[str] = frozenset()
) -> None:
    separator = ""
    for name, schema in sorted_items(properties):
        if name in skip:
            continue
        out.text(f"{separator}{name}:{{")
        _write_property(out, schema if isinstance(schema, Mapping) else {})
        separator = ","


def _write_property(out: SegmentWriter, schema: Mapping[str, Any]) -> None:
    kind = _upper(schema.get("type", ""))
    separator = ""
    if description := schema.get("description"):
        out.text("description:")
        out.quoted(str(description))
        separator = ","
    if kind == "STRING" and schema.get("enum"):
        out.key(separator, "enum")
        write_value(out, schema["enum"], quoted_keys=True)
        separator = ","
    elif kind == "ARRAY" and isinstance(schema.get("items"), Mapping) and schema["items"]:
        out.text(f"{separator}items:{{")
        _write_items(out, schema["items"])
        out.text("}")
        separator = ","
    if schema.get("nullable"):
        out.text(f"{separator}nullable:true")
        separator = ","
    if kind == "OBJECT":
        out.text(f"{separator}properties:{{")
        if isinstance(properties := schema.get("properties"), Mapping):
            _write_properties(out, properties)
        out.text("}")
        separator = ","
        if required := schema.get("required"):
            out.text(separator)
            _write_required(out, required)
    out.key(separator, "type")
    out.quoted(kind)
    out.text("}")


def _write_items(out: SegmentWriter, items: Mapping[str, Any]) -> None:
    separator = ""
    for key, value in sorted_items(items):
        if value is None:
            continue
        if key == "required":
            out.text(separator)
            _write_required(out, value)
        else:
            out.key(separator, key)
            if key == "properties":
                out.text("{")
                _write_properties(out, value if isinstance(value, Mapping) else {})
                out.text("}")
            elif key == "type":
                kinds = value if isinstance(value, str) else [_upper(each) for each in value]
                write_value(out, _upper(kinds) if isinstance(kinds, str) else kinds)
            else:
                write_value(out, value, quoted_keys=True)
        separator = ","


def _write_required(out: SegmentWriter, names: Sequence[Any]) -> None:
    out.text("required:[")
    for place, name in enumerate(names):
        if place:
            out.text(",")
        out.quoted(str(name))
    out.text("]")


def write_value(
    out: SegmentWriter, value: Any, *, quoted_keys: bool = False, depth: int = 0
) -> None:
    """Append JSON data in Gemma's syntax: strings in quote tokens, keys bare and sorted."""
    if depth > 2 * MAX_DEPTH:
        raise PromptError(f"a tool's data is nested deeper than {2 * MAX_DEPTH} levels")
    if isinstance(value, str):
        out.quoted(value)
    elif isinstance(value, bool):
        out.text("true" if value else "false")
    elif value is None:
        out.text("null")
    elif isinstance(value, Mapping):
        out.text("{")
        for place, (key, each) in enumerate(sorted_items(value)):
            out.text("," if place else "")
            out.quoted(key) if quoted_keys else out.text(key)
            out.text(":")
            write_value(out, each, quoted_keys=quoted_keys, depth=depth + 1)
        out.text("}")
    elif isinstance(value, list | tuple):
        out.text("[")
        for place, each in enumerate(value):
            out.text("," if place else "")
            write_value(out, each, quoted_keys=quoted_keys, depth=depth + 1)
        out.text("]")
    else:
        out.text(str(value))


def sorted_items(mapping: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    """Items sorted by name without regard to case, as the template sorts them."""
    return sorted(((str(key), each) for key, each in mapping.items()), key=lambda kv: kv[0].lower())


def _upper(kind: object) -> str:
    return str(kind).upper()
