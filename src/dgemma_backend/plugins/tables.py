"""What plugins offer, by name; the one thing the rest of the house asks."""

import os
import threading
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from dgemma_backend.errors import DgemmaError, PluginError, UnknownPluginError
from dgemma_backend.hookspecs import (
    GROUP,
    OBSERVER_HOOKS,
    RECORD_HOOKS,
    ProviderRecord,
    Record,
)
from dgemma_backend.plugins.loaded import LoadedPlugin, Observer, PluginInfo
from dgemma_backend.plugins.loader import OURS, Loader
from dgemma_backend.plugins.policy import Policy
from dgemma_backend.plugins.requirements import check_requirements


class Plugins:
    """The plugins of this process as one `load` found them; ours are among them.

    `engine(name)`, `sampler(name)` and so on return the part itself, imported now. They raise
    UnknownPluginError for a name nobody offers and PluginError for a part that cannot be imported.
    """

    def __init__(self, plugins: Iterable[LoadedPlugin]) -> None:
        self._plugins = tuple(plugins)
        self._lock = threading.Lock()
        self._tables: dict[str, dict[str, tuple[Record, str]]] = {
            kind.kind: {} for kind in RECORD_HOOKS.values()
        }
        self._observers: dict[str, tuple[Observer, ...]] = {
            hook: tuple(
                observer
                for plugin in self._plugins
                for observer in plugin.observers
                if observer.hook == hook
            )
            for hook in OBSERVER_HOOKS
        }
        for plugin in self._plugins:
            for hook, record in plugin.records:
                self._enter(plugin, RECORD_HOOKS[hook].kind, record)

    @classmethod
    def load(
        cls,
        *,
        given: Mapping[str, object] | None = None,
        installed: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> "Plugins":
        """Load our own parts, then `installed` plugins by name, then those `given` by the program.

        Imports the plugins' own modules and none of the parts they offer. What is wrong with a
        plugin becomes a RuntimeWarning and stands in `listing()`. Raises PluginError for an
        environment variable that means nothing and, with DGEMMA_STRICT_PLUGINS=1, for anything
        wrong with a plugin.
        """
        loader = Loader(Policy.of(os.environ if env is None else env))
        loader.add_installed(entry_points(group=GROUP) if installed else ())
        loader.add_given(given or {})
        return cls(loader.finish())

    def engine(self, name: str) -> Any:
        """The factory of an engine kind."""
        return self._part("engine", name)

    def kernels(self, name: str) -> Any:
        """The factory of an implementation of the operations."""
        return self._part("kernels", name)

    def quantization(self, name: str) -> Any:
        """The factory of a format of quantized weights."""
        return self._part("quantization", name)

    def sampler(self, name: str) -> Any:
        """The factory of a sampler."""
        return self._part("sampler", name)

    def stop_rule(self, name: str) -> Any:
        """The factory of a stop rule."""
        return self._part("stop rule", name)

    def chat_protocol(self, name: str) -> Any:
        """The factory of a chat protocol."""
        return self._part("chat protocol", name)

    def provider(self, name: str) -> Any:
        """A framework adapter's class.

        Raises MissingDependencyError, with the command to run, when its framework is missing.
        """
        record, _ = self._find("provider", name)
        if isinstance(record, ProviderRecord):
            check_requirements(record)
        return self._part("provider", name)

    def records(self, kind: str) -> tuple[Record, ...]:
        """All parts of a kind ("engine", "stop rule", ...), ours first."""
        return tuple(record for record, _ in self._tables[kind].values())

    def observes(self, hook: str) -> bool:
        """Whether any plugin implements the observer `hook`; nothing need be prepared for none."""
        return bool(self._observers[hook])

    def on_step(self, step: Any) -> None:
        """Show a denoising step to the observers."""
        self._notify("dgemma_on_step", {"step": step})

    def on_canvas(self, canvas: Any) -> None:
        """Show a committed canvas to the observers."""
        self._notify("dgemma_on_canvas", {"canvas": canvas})

    def request_finished(self, info: Any) -> None:
        """Tell the observers that a request is over."""
        self._notify("dgemma_request_finished", {"info": info})

    def listing(self) -> tuple[PluginInfo, ...]:
        """Every plugin that was seen, ours first, with what it offers and what is wrong."""
        return tuple(self._describe(plugin) for plugin in self._plugins)

    def _describe(self, plugin: LoadedPlugin) -> PluginInfo:
        offers = tuple(
            (kind, name)
            for kind, table in self._tables.items()
            for name, (_, giver) in table.items()
            if giver == plugin.name
        )
        observes = tuple(
            hook
            for hook, observers in self._observers.items()
            if any(observer.plugin is plugin for observer in observers)
        )
        return PluginInfo(
            plugin.name, plugin.source, plugin.status, offers, observes, tuple(plugin.problems)
        )

    def _enter(self, plugin: LoadedPlugin, kind: str, record: Record) -> None:
        table = self._tables[kind]
        if record.name in table:
            giver = table[record.name][1]
            if giver != OURS or not record.replaces:
                ways = "another name or replaces=True" if giver == OURS else "another name"
                plugin.blame(
                    f"offers the {kind} {record.name!r}, which plugin {giver!r} has already; "
                    f"this one is left out. It needs {ways}."
                )
                return
        table[record.name] = (record, plugin.name)

    def _find(self, kind: str, name: str) -> tuple[Record, str]:
        table = self._tables[kind]
        if name not in table:
            near = get_close_matches(str(name), table, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownPluginError(
                f"there is no {kind} {name!r}.{hint} There are: {', '.join(table) or 'none'}. "
                "`dgemma plugins` lists the plugins and what is wrong with them."
            )
        return table[name]

    def _part(self, kind: str, name: str) -> Any:
        record, giver = self._find(kind, name)
        module, _, attribute = record.factory.partition(":")
        try:
            return reduce(getattr, attribute.split("."), import_module(module))
        except DgemmaError:
            raise
        except Exception as error:
            raise PluginError(
                f"the {kind} {name!r} of plugin {giver!r} cannot be had from {record.factory!r}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _notify(self, hook: str, arguments: Mapping[str, Any]) -> None:
        for observer in self._observers[hook]:
            try:
                observer(arguments)
            except Exception as error:  # noqa: BLE001 - a broken observer ends no request
                with self._lock:
                    self._observers[hook] = tuple(
                        each for each in self._observers[hook] if each is not observer
                    )
                observer.plugin.blame(f"failed in {hook} and is not called again", error)


def provider(name: str, /, **options: Any) -> Any:
    """Build the framework adapter called `name`: `provider("langchain", model="tiny")`.

    `options` go to the adapter as they are. Raises UnknownPluginError for a name nobody offers and
    MissingDependencyError, with the command to run, when its framework is missing.
    """
    return Plugins.load().provider(name)(**options)
