"""One live engine for the same arguments in a process, closed when its last user lets go."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol


class Closable(Protocol):
    """All the registry needs to know of an engine."""

    closed: bool


class _Shared:
    def __init__(self) -> None:
        self.engine: Any = None
        self.openings = 0
        self.opening = threading.Lock()


_shared: dict[Hashable, _Shared] = {}
_guard = threading.Lock()


def registered_engine(key: Hashable, opener: Callable[[], Any]) -> Any:
    """The live engine opened under `key`, else a new one from `opener`; counts the opening.

    Two threads that ask at once get one engine; other keys are not held up meanwhile.
    """
    with _guard:
        shared = _shared.setdefault(key, _Shared())
    with shared.opening:
        if shared.engine is None or shared.engine.closed:
            shared.engine, shared.openings = opener(), 0
        shared.openings += 1
        return shared.engine


def release(engine: Closable) -> bool:
    """Give back one opening. True if nobody else has the engine open, so it may be closed.

    An engine that was not opened through the registry has one user.
    """
    with _guard:
        mine = [shared for shared in _shared.values() if shared.engine is engine]
    for shared in mine:
        with shared.opening:
            if shared.engine is not engine:
                continue
            shared.openings -= 1
            if shared.openings > 0:
                return False
            shared.engine = None  # its weights can be freed
    return True
