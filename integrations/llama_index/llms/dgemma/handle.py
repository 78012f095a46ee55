"""The engine behind an LLM object: opened when first needed, and never copied with it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgemma_backend import Engine


class EngineHandle:
    """What to open, and what is open.

    `given` is an engine that somebody else opened and closes; else one is opened from `model` and
    `options`, as `dgemma_backend.open_engine` takes them. Copies and pickles of a handle hold the
    recipe alone; engines of one recipe share their weights.
    """

    def __init__(self, model: str, options: Mapping[str, Any], given: Engine | None = None) -> None:
        self.model = model
        self.options = dict(options)
        self._given = given
        self._engine: Engine | None = None
        self._context_length: int | None = None
        self._lock = threading.Lock()

    @property
    def live(self) -> Engine | None:
        """The engine, if it is open."""
        engine = self._given or self._engine
        return None if engine is None or engine.closed else engine

    def open(self) -> Engine:
        """The engine, opened now if it is not. Raises as `open_engine` does."""
        if self._given is not None:
            return self._given
        with self._lock:
            if self._engine is None or self._engine.closed:
                from dgemma_backend import open_engine

                self._engine = open_engine(self.model, **self.options)
            return self._engine

    def context_length(self) -> int | None:
        """Tokens of context, without opening anything; None while nobody here knows."""
        if (engine := self.live) is not None:
            return engine.info.context_length
        if self._context_length is None:
            from dgemma_backend import context_length
            from dgemma_backend.errors import CheckpointError, ConfigError

            try:
                self._context_length = context_length(self.model)
            except (CheckpointError, ConfigError):  # opening the engine will say what is wrong
                return None
        return self._context_length

    def close(self) -> None:
        """Give back the engine, if this handle opened it; the next `open` opens it anew."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineHandle:
        return EngineHandle(self.model, self.options, self._given)

    def __reduce__(self) -> tuple[type[EngineHandle], tuple[Any, ...]]:
        return EngineHandle, (self.model, self.options, self._given)
