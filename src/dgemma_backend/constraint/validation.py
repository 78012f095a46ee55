"""Checking a finished value against its schema, by somebody else's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgemma_backend.errors import MissingDependencyError


def schema_errors(schema: Mapping[str, Any] | bool, value: Any) -> list[str]:
    """What is wrong with `value` under `schema`, formats included; empty when nothing is.

    Raises MissingDependencyError without the jsonschema package.
    """
    try:
        from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            "checking a value against its schema needs jsonschema: "
            "pip install 'dgemma-backend[schema]'"
        ) from error
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
