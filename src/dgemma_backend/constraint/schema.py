"""JSON schema -> expression tree. What comes out is always valid; not all that is valid can.

- Members come in the order of the schema, optional ones may be missing. An object that declares
  properties gets no others, whatever `additionalProperties` allows.
- An unbounded integer has at most 19 digits, a number 15 before and 15 behind the point.
- Where the schema says nothing, values are at most `free_depth` containers deep; a reference is
  followed inside itself at most `recursion` times.
- With `uniqueItems` the items, which must be an enum, come in its order.
- `oneOf` needs options that can be seen to exclude one another; a member with a const or enum of
  its own in every option does, and is then always written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from dgemma_backend.constraint.expression import NOTHING, Choice, Expression, choice
from dgemma_backend.constraint.limits import Budget
from dgemma_backend.constraint.notation import Notation, written
from dgemma_backend.constraint.place import Place
from dgemma_backend.constraint.schema_merge import (
    KEYWORDS_OF,
    TYPES,
    CannotMerge,
    declared_types,
    disjoint,
    is_annotation,
    json_type,
    merged,
    same,
)
from dgemma_backend.constraint.schema_values import ValueExpressions
from dgemma_backend.errors import ConstraintError, UnsupportedSchemaError

OnUnsupported = Literal["error", "validate"]

_APPLIED = frozenset({"anyOf", "oneOf", "allOf", "$ref", "enum", "const", "type"})
_KNOWN = _APPLIED.union(*KEYWORDS_OF.values())


@dataclass(frozen=True)
class SchemaExpression:
    """The values of a schema. `left_out` are pointers to keywords that were not guaranteed."""

    expression: Expression
    left_out: tuple[str, ...]


def schema_expression(
    schema: Mapping[str, Any] | bool,
    notation: Notation,
    budget: Budget,
    on_unsupported: OnUnsupported = "error",
    pointer: str = "#",
) -> SchemaExpression:
    """The values of `schema` in a notation.

    Raises UnsupportedSchemaError, which names the place, for a keyword that cannot be guaranteed
    or is malformed; with `on_unsupported="validate"` the former are left out and reported.
    """
    compiler = SchemaCompiler(schema, notation, budget, on_unsupported)
    expression = compiler.expression(schema, Place(pointer))
    return SchemaExpression(expression, tuple(dict.fromkeys(compiler.left_out)))


class SchemaCompiler:
    """Walks a schema; what is said of one type is left to ValueExpressions."""

    def __init__(
        self,
        root: Mapping[str, Any] | bool,
        notation: Notation,
        budget: Budget,
        on_unsupported: OnUnsupported,
    ) -> None:
        self.root = root
        self.notation = notation
        self.budget = budget
        self.validates = on_unsupported == "validate"
        self.left_out: list[str] = []
        self.values = ValueExpressions(self)

    def unsupported(self, place: Place, why: str) -> None:
        """Leave a keyword out, or refuse it."""
        if not self.validates:
            raise UnsupportedSchemaError(
                f"the schema cannot be guaranteed at {place.pointer}: {why}. Remove it, or ask "
                'for on_unsupported="validate" to have it checked afterwards.',
                place.pointer,
            )
        self.left_out.append(place.pointer)

    def malformed(self, place: Place, why: str) -> UnsupportedSchemaError:
        """The error for what is no JSON schema."""
        return UnsupportedSchemaError(
            f"the schema is wrong at {place.pointer}: {why}", place.pointer
        )

    def expression(self, schema: Any, place: Place) -> Expression:
        """The values of one schema."""
        self.budget.check_time()
        if place.depth > self.budget.limits.depth:
            if place.returns:
                return NOTHING
            raise ConstraintError(
                f"the schema is nested deeper than {self.budget.limits.depth} levels at "
                f"{place.pointer}"
            )
        if schema is True:
            return self.values.anything(place)
        if schema is False:
            return NOTHING
        if not isinstance(schema, Mapping):
            raise self.malformed(place, f"a schema is an object or a boolean, not {schema!r:.60}")
        plain = self.known_keywords(schema, place)
        if "$ref" in plain:
            return self._reference(plain, place)
        if "allOf" in plain:
            return self._all_of(plain, place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in plain:
                return self._any_of(plain, keyword, place)
        if "enum" in plain or "const" in plain:
            return self._certain_values(plain, place)
        return self._by_type(plain, place)

    def known_keywords(self, schema: Mapping[str, Any], place: Place) -> dict[str, Any]:
        """The keywords that mean something; the others refused or left out."""
        found: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in _KNOWN:
                found[keyword] = value
            elif not is_annotation(keyword):
                self.unsupported(place.at(keyword), f"the keyword {keyword!r} is not supported")
        return found

    def _reference(self, schema: dict[str, Any], place: Place) -> Expression:
        target = schema.pop("$ref")
        followed = Place(place.pointer, place.depth + 1, (*place.trail, str(target)), place.free)
        if followed.returns > self.budget.limits.recursion:
            return NOTHING
        found = self.resolve(target, place)
        if schema:
            found = self._merge(found, schema, place)
        else:
            followed = Place(str(target), followed.depth, followed.trail, followed.free)
        return self.expression(found, followed)

    def resolve(self, target: Any, place: Place) -> Any:
        """What a reference inside this schema leads to."""
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise UnsupportedSchemaError(
                f"the schema cannot be guaranteed at {place.pointer}: only references into the "
                f"schema itself (#/...) are followed, not {target!r:.80}",
                place.pointer,
            )
        found: Any = self.root
        for step in target.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, Mapping) and name in found:
                found = found[name]
            else:
                raise self.malformed(place, f"nothing is at {target!r:.80}")
        return found

    def resolved(self, schema: Any, place: Place) -> Any:
        """The schema behind a reference, and behind those that leads to."""
        for _ in range(self.budget.limits.depth):
            self.budget.check_time()
            if not (isinstance(schema, Mapping) and "$ref" in schema):
                break
            schema = self.resolve(schema["$ref"], place)
        return schema

    def _merge(self, one: Any, other: Any, place: Place) -> Any:
        """A schema that asks for both."""
        for each in (one, other):
            if not isinstance(each, Mapping | bool):
                raise self.malformed(place, f"a schema is an object or a boolean, not {each!r:.60}")
        if isinstance(one, bool) or isinstance(other, bool):
            if one is False or other is False:
                return False
            return other if one is True else one
        try:
            return merged(one, other)
        except (CannotMerge, TypeError, AttributeError) as error:
            keyword = error.keyword if isinstance(error, CannotMerge) else "allOf"
            self.unsupported(place.at(keyword), f"two {keyword!r} that both hold cannot be joined")
            return {**other, **one}

    def _options(self, schema: Mapping[str, Any], keyword: str, place: Place) -> list[Any]:
        found = schema[keyword]
        if not isinstance(found, list) or not found:
            raise self.malformed(place.at(keyword), "a list with at least one schema is needed")
        return found

    def _all_of(self, schema: dict[str, Any], place: Place) -> Expression:
        parts = self._options(schema, "allOf", place)
        del schema["allOf"]
        trail = place.trail
        joined: Any = schema
        for part in parts:
            while isinstance(part, Mapping) and "$ref" in part:
                trail = (*trail, str(part["$ref"]))
                if Place("", trail=trail).returns > self.budget.limits.recursion:
                    return NOTHING
                rest = {key: value for key, value in part.items() if key != "$ref"}
                part = self._merge(self.resolve(part["$ref"], place), rest, place)
            if isinstance(part, Mapping):
                part = self.known_keywords(part, place.at("allOf"))
            joined = self._merge(joined, part, place)
        return self.expression(joined, Place(place.pointer, place.depth + 1, trail, place.free))

    def _any_of(self, schema: dict[str, Any], keyword: str, place: Place) -> Expression:
        options = self._options(schema, keyword, place)
        if keyword == "oneOf" and not self._all_disjoint(options, place):
            options = self._tagged(options, place)
        rest = {key: value for key, value in schema.items() if key != keyword}
        found: list[Expression] = []
        for number, option in enumerate(options):
            inside = place.at(keyword, number)
            if rest and isinstance(option, Mapping) and "$ref" in option:
                option = {**option, "allOf": [rest, *option.get("allOf", [])]}
            elif rest:
                option = self._merge(option, rest, inside)
            found.append(self.expression(option, inside))
        return Choice(tuple(found))

    def _all_disjoint(self, options: list[Any], place: Place) -> bool:
        def resolved(schema: Any) -> Any:
            return self.resolved(schema, place)

        return all(
            disjoint(one, other, resolved)
            for number, one in enumerate(options)
            for other in options[:number]
        )

    def _tagged(self, options: list[Any], place: Place) -> list[Any]:
        """The options with a member required that tells them apart, such as a discriminator."""
        known = [self.resolved(option, place) for option in options]
        members = [o.get("properties", {}) if isinstance(o, Mapping) else {} for o in known]
        for name in members[0] if isinstance(members[0], Mapping) else ():
            if all(name in each for each in members) and self._all_disjoint(
                [_requiring(option, name) for option in known], place
            ):
                return [_requiring(option, name) for option in options]
        self.unsupported(
            place.at("oneOf"),
            "it cannot be seen that at most one of these options fits a value; use anyOf, or give "
            "every option a property with a const of its own",
        )
        return options

    def _certain_values(self, schema: Mapping[str, Any], place: Place) -> Expression:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list | tuple) or not values:
            raise self.malformed(place.at("enum"), "a list with at least one value is needed")
        if "const" in schema:
            values = [value for value in values if same(value, schema["const"])]
        kinds = self._types(schema, place)
        if kinds is not None:
            allowed = {*kinds, "integer"} if "number" in kinds else set(kinds)
            values = [value for value in values if json_type(value) in allowed]
        for keyword in schema.keys() - {"enum", "const", "type"}:
            self.unsupported(place.at(keyword), f"{keyword!r} beside 'enum' or 'const'")
        return choice(*(written(value, self.notation) for value in values))

    def _types(self, schema: Mapping[str, Any], place: Place) -> list[str] | None:
        kinds = declared_types(schema)
        if kinds is None:
            return None
        if not isinstance(kinds, list) or any(kind not in TYPES for kind in kinds):
            raise self.malformed(place.at("type"), f"the types are {', '.join(TYPES)}")
        return kinds

    def _by_type(self, schema: dict[str, Any], place: Place) -> Expression:
        kinds = self._types(schema, place)
        if kinds is None:
            about = [kind for kind, keywords in KEYWORDS_OF.items() if keywords & schema.keys()]
            if not about:
                return self.values.anything(place)
            kinds = about
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        build = {
            "object": self.values.object_,
            "array": self.values.array,
            "string": self.values.string,
            "number": self.values.number,
            "integer": self.values.integer,
        }
        simple = {"boolean": choice("true", "false"), "null": choice("null")}
        return choice(
            *(
                build[kind](schema, place) if kind in build else simple[kind]
                for kind in dict.fromkeys(kinds)
            )
        )


def _requiring(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**schema, "required": [*schema.get("required", []), name]}
