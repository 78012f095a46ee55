"""What people hand over as a schema -> JSON schema as data."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from inspect import isroutine
from itertools import islice
from typing import Any

from dgemma_backend.constraint.limits import Limits
from dgemma_backend.errors import ConstraintError, MissingDependencyError

_DEEPEST = 256


def json_schema_of(source: Any) -> dict[str, Any] | bool:
    """The JSON schema of a mapping (itself), a pydantic model, or a type pydantic understands.

    Raises ConstraintError when `source` is none of these, MissingDependencyError when it would
    take pydantic to tell.
    """
    if isinstance(source, bool):
        return source
    if isinstance(source, Mapping):
        return {str(key): value for key, value in source.items()}
    try:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError
    except ImportError as error:
        raise MissingDependencyError(
            f"{source!r:.80} is no JSON schema as a mapping; reading it as a type needs pydantic: "
            "pip install pydantic"
        ) from error
    try:
        if isroutine(source):  # pydantic would take it for its arguments
            raise PydanticUserError("it is a function", code=None)
        found: dict[str, Any] = TypeAdapter(source).json_schema()
    except PydanticUserError as error:
        raise ConstraintError(
            f"{source!r:.80} has no JSON schema: {str(error).splitlines()[0]}. Give a JSON schema "
            "as a dict, a pydantic model, or a type such as list[int]."
        ) from error
    return found


def canonical_text(schema: Mapping[str, Any] | bool, limits: Limits) -> str:
    """The schema as JSON text, the same for equal schemas (members in their order).

    Raises ConstraintError when it is too large, too deep or no JSON.
    """
    _check_depth(schema, limits)
    text, size = io.StringIO(), 0
    try:
        # piece by piece: data may hold one part many times and be far larger than it looks
        for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False).iterencode(schema):
            size += len(piece.encode("utf-8", "replace"))
            if size > limits.schema_bytes:
                raise _too_large(limits)
            text.write(piece)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConstraintError):
            raise
        raise ConstraintError(f"the schema is not JSON: {error}") from error
    return text.getvalue()


def _too_large(limits: Limits) -> ConstraintError:
    return ConstraintError(
        f"the schema is more than {limits.schema_bytes:,} bytes of JSON; make it smaller, or put "
        "what repeats into $defs"
    )


def _check_depth(schema: Any, limits: Limits) -> None:
    """Refuse data so deep, or holding itself, that writing it would not end well."""
    level: list[Any] = [[schema]]
    containers = 0
    for _ in range(_DEEPEST):
        inner = (
            inner
            for each in level
            for inner in (each.values() if isinstance(each, Mapping) else each)
            if isinstance(inner, Mapping | list | tuple)
        )
        level = list(islice(inner, limits.schema_bytes))
        containers += len(level)
        if 2 * containers > limits.schema_bytes:  # each is two brackets at least
            raise _too_large(limits)
        if not level:
            return
    raise ConstraintError("the schema is nested too deeply, or holds itself")
