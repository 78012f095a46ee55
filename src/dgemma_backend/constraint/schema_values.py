"""The values of one JSON type, under the keywords that speak about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dgemma_backend.constraint.expression import (
    EMPTY,
    NOTHING,
    Expression,
    Intersection,
    Listing,
    Repeat,
    choice,
    optional,
    sequence,
)
from dgemma_backend.constraint.formats import FORMATS, FREE_FORMATS
from dgemma_backend.constraint.numeral import INTEGER, NUMBER, Bound, bounded_number
from dgemma_backend.constraint.place import Place
from dgemma_backend.constraint.regex import full_match, search
from dgemma_backend.errors import ConstraintError

if TYPE_CHECKING:
    from dgemma_backend.constraint.schema import SchemaCompiler

Schema = Mapping[str, Any]

LONGEST_STRING = 2_000
MOST_ITEMS = 2_000
LARGEST_MULTIPLE = 100
LONGEST_TUPLE = 64


class ValueExpressions:
    """Expressions of objects, arrays, strings and numbers, in the notation of `compiler`."""

    def __init__(self, compiler: SchemaCompiler) -> None:
        self.compiler = compiler
        self.notation = compiler.notation

    def anything(self, place: Place) -> Expression:
        """Any value, as many containers deep as is still allowed."""
        left = self.compiler.budget.limits.free_depth if place.free is None else place.free
        string = self.notation.string(Repeat(self.notation.any_character, 0, None))
        scalars = choice(string, NUMBER, "true", "false", "null")
        if left <= 0:
            return scalars
        inside = replace(place, free=left - 1)
        return choice(scalars, self.array({}, inside), self.object_({}, inside))

    def _count(self, schema: Schema, keyword: str, place: Place) -> int | None:
        """A keyword that is a whole number not below zero."""
        value = schema.get(keyword)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            wanted = "a whole number not below 0 is needed"
            raise self.compiler.malformed(place.at(keyword), f"{wanted}, not {value!r:.40}")
        if value != int(value):
            raise self.compiler.malformed(place.at(keyword), f"{value!r:.40} is not whole")
        return int(value)

    def object_(self, schema: Schema, place: Place) -> Expression:
        """Objects: the declared members in order, or free ones where none is declared."""
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        additional = schema.get("additionalProperties", True)
        if not isinstance(properties, Mapping):
            raise self.compiler.malformed(place.at("properties"), "an object is needed")
        if not isinstance(required, list) or any(not isinstance(n, str) for n in required):
            raise self.compiler.malformed(place.at("required"), "a list of names is needed")
        members: dict[str, tuple[Any, tuple[str, ...]]] = {
            name: (value, ("properties", name)) for name, value in properties.items()
        }
        for name in required:
            members.setdefault(name, (additional, ("additionalProperties",)))
        if not members:
            if additional is False:
                self._member_counts(schema, 0, 0, place)
                return choice("{}")
            return self._free_object(schema, place)
        if "propertyNames" in schema:
            self.compiler.unsupported(place.at("propertyNames"), "names beside declared ones")
        self._member_counts(schema, len(set(required)), len(members), place)
        names = sorted(members, key=str.lower) if self.notation.sorts_names else list(members)
        parts: list[tuple[Expression, bool]] = []
        for name in names:
            value, steps = members[name]
            found = self.compiler.expression(value, place.at(*steps))
            part = sequence(self.notation.key(name), found)
            parts.append((part, name not in required))
        return sequence("{", Listing(tuple(parts), self.notation.comma), "}")

    def _member_counts(self, schema: Schema, least: int, most: int, place: Place) -> None:
        """Leave out or refuse bounds on the number of members that do not hold by themselves."""
        floor = self._count(schema, "minProperties", place) or 0
        ceiling = self._count(schema, "maxProperties", place)
        if floor > least:
            self.compiler.unsupported(place.at("minProperties"), "more members than are required")
        if ceiling is not None and ceiling < most:
            self.compiler.unsupported(place.at("maxProperties"), "fewer members than are declared")

    def _free_object(self, schema: Schema, place: Place) -> Expression:
        """Objects with names of the model's choice; a name may come twice."""
        self._member_counts(schema, 0, 0 if "maxProperties" in schema else 1, place)
        value = self.compiler.expression(
            schema.get("additionalProperties", True), place.at("additionalProperties")
        )
        if "propertyNames" in schema:
            key = self._named_key(schema["propertyNames"], place.at("propertyNames"))
        else:
            key = self.notation.free_key(Repeat(self.notation.any_character, 0, None))
        members = Repeat(sequence(key, value), 0, None, self.notation.comma)
        return sequence("{", members, "}")

    def _named_key(self, schema: Any, place: Place) -> Expression:
        names = self.compiler.resolved(schema, place)
        if isinstance(names, Mapping):
            names = self.compiler.known_keywords(names, place)
            if isinstance(values := names.get("enum"), list):
                texts = [each for each in values if isinstance(each, str)]
                return choice(*map(self.notation.key, texts))
            if names.get("type", "string") == "string" and not names.keys() & {"anyOf", "allOf"}:
                return self.notation.free_key(self.characters(names, place))
        self.compiler.unsupported(place, "names are strings, or an enum of strings")
        return self.notation.free_key(Repeat(self.notation.any_character, 0, None))

    def array(self, schema: Schema, place: Place) -> Expression:
        """Arrays: first the items that have places of their own, then any number of others."""
        least = self._count(schema, "minItems", place) or 0
        most = self._count(schema, "maxItems", place)
        if max(least, most or 0) > MOST_ITEMS:
            keyword = "minItems" if least > MOST_ITEMS else "maxItems"
            self.compiler.unsupported(place.at(keyword), f"more than {MOST_ITEMS} items")
            least, most = min(least, MOST_ITEMS), None
        if most is not None and most < least:
            return NOTHING
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise self.compiler.malformed(place.at("prefixItems"), "a list of schemas is needed")
        if len(first) > LONGEST_TUPLE:
            self.compiler.unsupported(place.at("prefixItems"), f"more than {LONGEST_TUPLE} items")
            first = first[:LONGEST_TUPLE]
        if isinstance(schema.get("items"), list):
            self.compiler.unsupported(place.at("items"), "a list of schemas; use prefixItems")
            schema = {key: value for key, value in schema.items() if key != "items"}
        if schema.get("uniqueItems", False) is not False and most not in (0, 1):
            unique = self._unique_items(schema, least, most, place)
            if unique is not None:
                return sequence("[", unique, "]")
        heads = [
            self.compiler.expression(item, place.at("prefixItems", number))
            for number, item in enumerate(first if most is None else first[:most])
        ]
        rest = self.compiler.expression(schema.get("items", True), place.at("items"))
        return sequence("[", self._listed(heads, rest, least, most), "]")

    def _listed(
        self, heads: list[Expression], rest: Expression, least: int, most: int | None
    ) -> Expression:
        """`heads` in order, as many as are needed or more, then `rest` repeated."""
        if not heads:
            return Repeat(rest, least, most, self.notation.comma)
        low = max(least - len(heads), 0)
        high = None if most is None else most - len(heads)
        tail: Expression = Repeat(sequence(self.notation.comma, rest), low, high)
        for number in reversed(range(len(heads))):
            separator = self.notation.comma if number else EMPTY
            tail = sequence(separator, heads[number], tail)
            if number >= least:
                tail = optional(tail)
        return tail

    def _unique_items(
        self, schema: Schema, least: int, most: int | None, place: Place
    ) -> Expression | None:
        """Some values of an enum, in its order; None where the items are none."""
        items = self.compiler.resolved(schema.get("items"), place)
        values = items.get("enum") if isinstance(items, Mapping) else None
        only_enum = isinstance(items, Mapping) and not any(
            key in items for key in ("const", "anyOf", "oneOf", "allOf")
        )
        fits = isinstance(values, list) and least <= 1 and (most is None or most >= len(values))
        if not isinstance(values, list) or not fits or not only_enum or "prefixItems" in schema:
            self.compiler.unsupported(
                place.at("uniqueItems"), "only for items of an enum, without other bounds"
            )
            return None
        place = place.at("items")
        parts = [self.compiler.expression({**items, "enum": [value]}, place) for value in values]
        every = Listing(tuple((part, True) for part in parts), self.notation.comma)
        if least == 0:
            return every
        from_each = [
            Listing(((part, False), *((each, True) for each in parts[number + 1 :])),
                    self.notation.comma)
            for number, part in enumerate(parts)
        ]  # fmt: skip
        return choice(*from_each)

    def string(self, schema: Schema, place: Place) -> Expression:
        """Strings."""
        return self.notation.string(self.characters(schema, place))

    def characters(self, schema: Schema, place: Place) -> Expression:
        """What stands between the quotes of a string."""
        any_character = self.notation.any_character
        parts: list[Expression] = []
        patterns = schema.get("pattern", ())
        for pattern in patterns if isinstance(patterns, tuple) else (patterns,):
            if not isinstance(pattern, str):
                raise self.compiler.malformed(place.at("pattern"), "a string is needed")
            try:
                parts.append(search(pattern, self.notation.encode, any_character))
            except ConstraintError as error:
                self.compiler.unsupported(place.at("pattern"), str(error))
        kind = schema.get("format")
        if kind in FORMATS:
            parts.append(full_match(FORMATS[kind], self.notation.encode))
        elif kind is not None and kind not in FREE_FORMATS:
            known = ", ".join(sorted(FORMATS))
            self.compiler.unsupported(
                place.at("format"), f"the format {kind!r:.40} is not known; known are {known}"
            )
        least, most = self._lengths(schema, place)
        if least or most is not None or not parts:
            parts.append(Repeat(any_character, least, most))
        if most is not None and most < least:
            return NOTHING
        return parts[0] if len(parts) == 1 else Intersection(tuple(parts))

    def _lengths(self, schema: Schema, place: Place) -> tuple[int, int | None]:
        least = self._count(schema, "minLength", place) or 0
        most = self._count(schema, "maxLength", place)
        if least > LONGEST_STRING:
            self.compiler.unsupported(place.at("minLength"), f"more than {LONGEST_STRING}")
            least = LONGEST_STRING
        if most is not None and most > LONGEST_STRING:
            self.compiler.unsupported(
                place.at("maxLength"),
                f"{most} is more than {LONGEST_STRING}, the longest string that can be counted",
            )
            most = None
        return least, most

    def number(self, schema: Schema, place: Place) -> Expression:
        """Numbers; with `multipleOf` only whole ones."""
        multiple = self._multiple(schema, place)
        low, high = self._bounds(schema, place)
        if multiple is not None:
            return bounded_number(low, high, whole=True, multiple=multiple)
        if low is None and high is None:
            return NUMBER
        return bounded_number(low, high, whole=False)

    def integer(self, schema: Schema, place: Place) -> Expression:
        """Whole numbers."""
        multiple = self._multiple(schema, place)
        low, high = self._bounds(schema, place)
        if low is None and high is None and multiple is None:
            return INTEGER
        return bounded_number(low, high, whole=True, multiple=multiple or 1)

    def _multiple(self, schema: Schema, place: Place) -> int | None:
        value = schema.get("multipleOf")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.compiler.malformed(place.at("multipleOf"), "a number above 0 is needed")
        if value != int(value) or value > LARGEST_MULTIPLE:
            self.compiler.unsupported(
                place.at("multipleOf"), f"only whole numbers up to {LARGEST_MULTIPLE}"
            )
            return None
        return int(value)

    def _bounds(self, schema: Schema, place: Place) -> tuple[Bound | None, Bound | None]:
        lows: list[Bound] = []
        highs: list[Bound] = []
        for name, found, inclusive in (
            ("minimum", lows, True),
            ("exclusiveMinimum", lows, False),
            ("maximum", highs, True),
            ("exclusiveMaximum", highs, False),
        ):
            value = schema.get(name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise self.compiler.malformed(place.at(name), "a number is needed")
            found.append(Bound(Decimal(repr(value)), inclusive))
        # the tighter of two: the inclusive one only if it is further inside
        low = max(lows, key=lambda bound: (bound.value, not bound.inclusive), default=None)
        high = min(highs, key=lambda bound: (bound.value, bound.inclusive), default=None)
        return low, high
