"""One live engine for the same arguments in a process."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol


class Closable(Protocol):
    """All the registry needs to know of an engine."""

    closed: bool


_engines: dict[Hashable, Closable] = {}
_opening: dict[Hashable, threading.Lock] = {}
_guard = threading.Lock()


def registered_engine(key: Hashable, opener: Callable[[], Any]) -> Any:
    """The live engine opened under `key`, else a new one from `opener`.

    Two threads that ask at once get one engine; other keys are not held up meanwhile.
    """
    with _guard:
        opening = _opening.setdefault(key, threading.Lock())
    with opening:
        engine = _engines.get(key)
        if engine is None or engine.closed:
            engine = opener()
            _engines[key] = engine
        return engine


def forget(engine: Closable) -> None:
    """Drop a closed engine, so that its weights can be freed."""
    with _guard:
        for key in [key for key, known in _engines.items() if known is engine]:
            del _engines[key]
