"""The engines that chat models of this process use: one for the same arguments.

LangChain makes copies of a model all the time (a configurable one for every call), so engines
belong to the process and not to a model.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dgemma_backend
from dgemma_backend.errors import DgemmaError, ModelNotFoundError

if TYPE_CHECKING:
    from dgemma_backend import Engine

Key = tuple[object, ...]
_open: dict[Key, Engine] = {}
_fingerprints: dict[str, str] = {}
_guard = threading.Lock()


def engine_of(name: str, engine: Any, *, own_name: str, **options: Any) -> Engine:
    """The engine for model `name`: `engine` itself if it is open already, else the one of its kind.

    Raises ModelNotFoundError if an open engine is asked for another model than it has.
    """
    if not isinstance(engine, str):
        return _checked(engine, name, own_name)
    key = _key(name, engine, options)
    known = _open.get(key)
    if known is not None and not known.closed:
        return known
    opened = dgemma_backend.open_engine(name, engine=engine, **options)
    with _guard:
        first = _open.get(key)
        if first is not None and not first.closed:
            opened.close()  # two threads came at once: the other one's opening counts
            return first
        _open[key] = opened
    return opened


def close(name: str, engine: str, **options: Any) -> None:
    """Let go of the engine with these arguments, if there is one."""
    with _guard:
        known = _open.pop(_key(name, engine, options), None)
    if known is not None:
        known.close()


def fingerprint_of(name: str, engine: Any) -> str | None:
    """What tells this model's weights from others of the same name; None where unknown."""
    model = name if isinstance(engine, str) else str(engine.info.folder)
    if model not in _fingerprints:
        try:
            found = dgemma_backend.fingerprint(model)
        except DgemmaError:  # the call that needs the model says what is wrong with it
            return None
        if found is None:
            return None
        _fingerprints[model] = found
    return _fingerprints[model]


def _checked(engine: Engine, name: str, own_name: str) -> Engine:
    info = engine.info
    if name in (own_name, info.model, info.folder):
        return engine
    raise ModelNotFoundError(
        f"model {name!r} was asked for, but this ChatDiffusionGemma was given an open engine, "
        f"which runs {info.model!r}. Make it with model= instead of engine=."
    )


def _key(name: str, engine: str, options: dict[str, Any]) -> Key:
    return (name, engine, *sorted((option, repr(value)) for option, value in options.items()))
