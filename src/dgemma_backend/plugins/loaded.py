"""One plugin: what it gave, and what is wrong with it."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dgemma_backend.errors import PluginError
from dgemma_backend.hookspecs import Record

Status = Literal["ok", "failed", "blocked"]


@dataclass(frozen=True)
class PluginInfo:
    """What became of one plugin, to be shown to people.

    Attributes:
        name: Its entry point's name.
        source: The distribution and version it came from, or where else.
        status: "failed" if nothing of it runs, "blocked" if it was switched off.
        offers: Kind and name of every part of it that can be asked for.
        observes: The observer hooks it implements.
        problems: What is wrong with it, a sentence each that begins after its name. A plugin that
            is "ok" may have some too: the rest of it runs.
    """

    name: str
    source: str
    status: Status
    offers: tuple[tuple[str, str], ...] = ()
    observes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observer:
    """A plugin's implementation of an observer hook; it may want fewer arguments than given."""

    plugin: "LoadedPlugin"
    hook: str
    function: Callable[..., object]
    wants: tuple[str, ...]

    def __call__(self, arguments: Mapping[str, Any]) -> None:
        """Call it, with what it wants of `arguments`."""
        self.function(*(arguments[name] for name in self.wants))


@dataclass(eq=False)
class LoadedPlugin:
    """A plugin while it is being loaded and used. With `strict`, a problem is an error."""

    name: str
    source: str
    strict: bool = False
    status: Status = "ok"
    records: list[tuple[str, Record]] = field(default_factory=list)  # hook, record
    observers: list[Observer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def blame(self, problem: str, error: BaseException | None = None) -> None:
        """Write down a problem, and warn of it. Raises PluginError when strict."""
        if error is not None:
            problem = f"{problem}: {type(error).__name__}: {error}"
        self.problems.append(problem)
        if self.strict:
            raise PluginError(f"plugin {self.name!r} {problem}") from error
        warnings.warn(f"plugin {self.name!r} {problem}", RuntimeWarning, stacklevel=2)

    def fail(self, problem: str, error: BaseException | None = None) -> None:
        """The same, and nothing of this plugin is used."""
        self.status = "failed"
        self.blame(problem, error)
