"""Errors of an answer that LlamaIndex's callers also know as ValueError."""

from dgemma_backend.errors import GenerationError


class NoToolCallError(GenerationError, ValueError):
    """A tool call was expected and the answer holds none."""


class InvalidAnswerError(GenerationError, ValueError):
    """The answer is not an object of the wanted class."""
