"""Imports plugins one by one, so that a broken one harms nobody but itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

import pluggy

from dgemma_backend import defaults, hookspecs
from dgemma_backend.hookspecs import GROUP, OBSERVER_HOOKS, RECORD_HOOKS
from dgemma_backend.plugins.loaded import LoadedPlugin, Observer
from dgemma_backend.plugins.policy import Policy

OURS = "dgemma_backend"
HOOKS = (*RECORD_HOOKS, *OBSERVER_HOOKS)


class Loader:
    """Gathers plugins by name, in the order they are added, ours first."""

    def __init__(self, policy: Policy) -> None:
        self.found: dict[str, LoadedPlugin] = {}
        self._policy = policy
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._add(OURS, "built in", lambda: defaults)

    def add_installed(self, points: Iterable[EntryPoint]) -> None:
        """Load the plugins that entry points name, as far as the environment allows."""
        for point in sorted(set(points)):
            source = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            if self._policy.allows(point.name):
                self._add(point.name, source, point.load)
            elif point.name not in self.found:
                self._note(point.name, source).status = "blocked"

    def add_given(self, plugins: Mapping[str, object]) -> None:
        """Take in plugins the program brings itself; the environment does not limit these."""
        for name in plugins:
            self._add(name, "given by the program", partial(plugins.__getitem__, name))

    def finish(self) -> tuple[LoadedPlugin, ...]:
        """Ask every plugin what it offers; name those the environment speaks of in vain."""
        for name, variable in self._policy.named.items():
            if name not in self.found:
                near = get_close_matches(name, self.found, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                self._note(name, "not installed").fail(
                    f"is named in {variable} and not installed{hint}"
                )
        if OURS in self._policy.never:
            self.found[OURS].blame("cannot be switched off by DGEMMA_DISABLE_PLUGINS")
        for hook in HOOKS:
            for plugin, implementation in self._implementations(hook):
                if hook in OBSERVER_HOOKS:
                    plugin.observers.append(
                        Observer(
                            plugin,
                            hook,
                            implementation.function,
                            tuple(implementation.argnames),
                        )
                    )
                else:
                    _collect(plugin, hook, implementation.function)
        return tuple(self.found.values())

    def _add(self, name: str, source: str, load: Callable[[], Any]) -> None:
        if name in self.found:
            self.found[name].blame(
                f"shares its name with a plugin from {source}, which is left out therefore"
            )
            return
        plugin = self._note(name, source)
        try:
            module = load()
            misspelt = list(_misspelt(self._manager, module))
            self._manager.register(module, name=name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does wrong
            plugin.fail("cannot be loaded", error)
            return
        for problem in misspelt:
            plugin.blame(problem)
        if not self._manager.get_hookcallers(module):
            plugin.fail("implements no hook: mark its functions with @hookimpl")

    def _note(self, name: str, source: str) -> LoadedPlugin:
        self.found[name] = LoadedPlugin(name, source, self._policy.strict)
        return self.found[name]

    def _implementations(self, hook: str) -> Iterator[tuple[LoadedPlugin, pluggy.HookImpl]]:
        by_plugin = {
            each.plugin_name: each for each in getattr(self._manager.hook, hook).get_hookimpls()
        }
        for name, plugin in self.found.items():
            implementation = by_plugin.get(name)
            if implementation is None:
                continue
            if implementation.wrapper or implementation.hookwrapper:
                plugin.blame(f"wraps {hook}, which cannot be wrapped")
            else:
                yield plugin, implementation


def _collect(plugin: LoadedPlugin, hook: str, ask: Callable[[], Any]) -> None:
    kind = RECORD_HOOKS[hook]
    try:
        answers = list(ask())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does wrong
        plugin.blame(f"failed in {hook}", error)
        return
    for answer in answers:
        if isinstance(answer, kind):
            plugin.records.append((hook, answer))
        else:
            plugin.blame(f"answered {hook} with {answer!r:.80}, which is no {kind.__name__}")


def _misspelt(manager: pluggy.PluginManager, module: Any) -> Iterator[str]:
    """A sentence for every function that was meant as a hook and would never be called."""
    for name in dir(module):
        options = manager.parse_hookimpl_opts(module, name)
        if options is not None:
            hook = options["specname"] or name
            if hook not in HOOKS and not options["optionalhook"]:
                near = get_close_matches(hook, HOOKS, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                yield f"implements {hook}, a hook that does not exist{hint}"
        elif name in HOOKS and manager.parse_hookspec_opts(module, name) is None:
            yield f"has {name} without the mark @hookimpl, so it is not called"
