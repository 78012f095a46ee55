"""Where in a schema we are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where in a schema we are: its pointer, and the references followed on the way."""

    pointer: str
    depth: int = 0
    trail: tuple[str, ...] = ()
    free: int | None = None
    """How many containers deep a value may still be that no schema describes."""

    def at(self, *steps: str | int) -> Place:
        """A place further inside."""
        names = (str(step).replace("~", "~0").replace("/", "~1") for step in steps)
        pointer = "/".join((self.pointer, *names))
        return Place(pointer, self.depth + 1, self.trail, self.free)

    @property
    def returns(self) -> int:
        """How often a reference was followed inside itself."""
        return len(self.trail) - len(set(self.trail))
