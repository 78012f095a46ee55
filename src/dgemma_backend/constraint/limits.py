"""How large a constraint may be, and how long compiling it may take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dgemma_backend.errors import ConstraintError, SettingError


@dataclass(frozen=True)
class Limits:
    """Bounds on one compilation; what passes one is refused with ConstraintError.

    `seconds` are those of the compiling thread on the processor, so that a busy machine refuses
    nothing. `schema_bytes` is the length of the schema as JSON, `depth` how deep it is nested,
    `recursion` how often a reference is followed inside itself, `free_depth` how many containers
    deep a value may be of which the schema says nothing.
    """

    schema_bytes: int = 65_536
    depth: int = 32
    states: int = 20_000
    seconds: float = 2.0
    recursion: int = 5
    free_depth: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SettingError(f"limit {name} must be greater than 0, got {value!r}")

    def start(self) -> Budget:
        """A budget that runs from now on."""
        return Budget(self)


class Budget:
    """What is left of the limits of one compilation; loops ask it often."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._end = time.thread_time() + limits.seconds

    def check_time(self) -> None:
        """Raise ConstraintError when the time is used up."""
        if time.thread_time() > self._end:
            raise ConstraintError(
                f"compiling the constraint took longer than {self.limits.seconds:g} s; make the "
                "schema or pattern simpler (shorter repeats, fewer alternatives)"
            )

    def check_states(self, states: int) -> None:
        """Raise ConstraintError when an automaton has more than the permitted states."""
        if states > self.limits.states:
            raise ConstraintError(
                f"the constraint needs more than {self.limits.states} states; make the schema or "
                "pattern simpler (shorter maxLength or repeats, fewer choices)"
            )
