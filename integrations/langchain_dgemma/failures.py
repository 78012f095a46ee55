"""Our errors as LangChain's, so that retry and fallback middleware understands them.

Every error raised here is also the built-in class it would be without LangChain (`ValueError`,
`TimeoutError`, ...), and has our own error as its cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions

from dgemma_backend import errors


def _also(name: str, builtin: type[Exception]) -> type[Exception] | None:
    """LangChain's class `name` that is also a `builtin`; None where this LangChain has none."""
    base = getattr(exceptions, name, None)
    return None if base is None else type(name, (base, builtin), {"__module__": __name__})


_INVALID = _also("ModelInvalidRequestError", ValueError)
_TRANSLATIONS: tuple[tuple[type[Exception], type[Exception] | None], ...] = (
    (errors.ContextLengthError, _also("ContextOverflowError", ValueError)),
    (errors.PromptError, _INVALID),
    (errors.SettingError, _INVALID),
    (errors.UnknownPluginError, _INVALID),
    (errors.ModelNotFoundError, _also("ModelNotFoundError", LookupError)),
    (errors.DeadlineExceededError, _also("ModelTimeoutError", TimeoutError)),
    (errors.QueueFullError, _also("ModelRateLimitError", RuntimeError)),
    (errors.ResponseFormatError, _also("ModelAPIError", ValueError)),
    (errors.NonFiniteLogitsError, _also("ModelAPIError", ArithmeticError)),
)
_OUT_OF_MEMORY = _also("ModelAPIError", MemoryError)


def translated(error: Exception) -> Exception:
    """LangChain's error for `error`, or `error` itself where LangChain has no word for it."""
    for ours, theirs in _TRANSLATIONS:
        if theirs is not None and isinstance(error, ours):
            return theirs(str(error))
    # torch is not imported here, so its class is known by name only
    if type(error).__name__ == "OutOfMemoryError" and _OUT_OF_MEMORY is not None:
        return _OUT_OF_MEMORY(str(error))
    return error


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise our errors as LangChain's."""
    try:
        yield
    except Exception as error:
        theirs = translated(error)
        if theirs is error:
            raise
        raise theirs from error
