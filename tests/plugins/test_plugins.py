import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from dgemma_backend.errors import PluginError, UnknownPluginError
from dgemma_backend.hookspecs import OBSERVER_HOOKS, RECORD_HOOKS, StopRuleRecord, hookimpl
from dgemma_backend.plugins import PluginInfo, Plugins

Install = Callable[..., Path]

PATIENT = """
    @hookimpl
    def dgemma_stop_rules():
        return [StopRuleRecord("patient", "json:JSONDecoder", summary="waits")]
"""


def info(plugins: Plugins, name: str) -> PluginInfo:
    return next(each for each in plugins.listing() if each.name == name)


def test_an_installed_plugin_offers_its_part_beside_ours(install: Install) -> None:
    install("waiting", PATIENT)
    plugins = Plugins.load()
    assert plugins.stop_rule("patient") is json.JSONDecoder
    assert [record.name for record in plugins.records("stop rule")] == [
        "stable_and_confident",
        "never",
        "patient",
    ]
    assert info(plugins, "waiting") == PluginInfo(
        "waiting", "waiting 1.0", "ok", offers=(("stop rule", "patient"),)
    )


@pytest.mark.parametrize("hook", RECORD_HOOKS)
def test_every_record_hook_fills_the_table_it_is_named_after(hook: str) -> None:
    record = RECORD_HOOKS[hook]("extra", "json:JSONDecoder")
    plugin = ModuleType("plugin")
    setattr(plugin, hook, hookimpl(lambda: [record]))
    plugins = Plugins.load(given={"given": plugin}, installed=False, env={})
    method = hook.removeprefix("dgemma_")
    method = method if method == "kernels" else method.removesuffix("s")
    assert getattr(plugins, method)("extra") is json.JSONDecoder


def test_our_own_parts_come_through_the_hooks_and_stand_first() -> None:
    ours = Plugins.load(installed=False, env={}).listing()
    assert [each.name for each in ours] == ["dgemma_backend"]
    assert {kind for kind, _ in ours[0].offers} == {
        "engine",
        "kernels",
        "quantization",
        "sampler",
        "stop rule",
        "chat protocol",
        "provider",
    }


def test_a_part_is_imported_when_it_is_asked_for_and_not_before(
    install: Install, tmp_path: Path
) -> None:
    (tmp_path / "late_part.py").write_text("class Rule: ...\n")
    install("late", PATIENT.replace("json:JSONDecoder", "late_part:Rule"))
    plugins = Plugins.load()
    assert "late_part" not in sys.modules
    assert plugins.stop_rule("patient").__name__ == "Rule"
    assert "late_part" in sys.modules


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import no_such_module_anywhere", "cannot be loaded: ModuleNotFoundError: No module"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("raise SystemExit('bye')", "cannot be loaded: SystemExit: bye"),
        ("def broken(:", "cannot be loaded: SyntaxError"),
        ("X = 1", "implements no hook: mark its functions with @hookimpl"),
        (
            "@hookimpl\ndef dgemma_on_step(step, colour): ...",
            "cannot be loaded: PluginValidationError",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_and_the_others_run(
    install: Install, source: str, problem: str
) -> None:
    install("a-broken", source)
    install("waiting", PATIENT)
    with pytest.warns(RuntimeWarning, match="plugin 'a-broken' "):
        plugins = Plugins.load()
    assert info(plugins, "a-broken").status == "failed"
    assert problem in info(plugins, "a-broken").problems[0]
    assert plugins.stop_rule("patient") is json.JSONDecoder


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise ValueError('not today')", "failed in dgemma_samplers: ValueError: not today"),
        ("return None", "failed in dgemma_samplers: TypeError"),
        ("return ['entropy']", "with 'entropy', which is no SamplerRecord"),
        ("return [StopRuleRecord('x', 'a:b')]", "which is no SamplerRecord"),
        ("return [SamplerRecord('a b', 'a:b')]", "sampler name 'a b' must be made of letters"),
        ("return [SamplerRecord('auto', 'a:b')]", "may not be 'auto'"),
        ("return [SamplerRecord('x', 'a.b')]", "must read 'package.module:attribute'"),
        ("return [SamplerRecord('x', 7)]", "factory 7 of sampler 'x' must read"),
        ("yield SamplerRecord('x', 'a:b'); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_hook_that_fails_costs_that_hook_only(install: Install, body: str, problem: str) -> None:
    install("half", f"{PATIENT}\n    @hookimpl\n    def dgemma_samplers():\n        {body}\n")
    with pytest.warns(RuntimeWarning, match="plugin 'half' "):
        plugins = Plugins.load()
    assert problem in info(plugins, "half").problems[0]
    assert info(plugins, "half").status == "ok"
    assert info(plugins, "half").offers == (("stop rule", "patient"),)


def test_a_misspelt_hook_is_reported_with_the_right_spelling(install: Install) -> None:
    install("typo", PATIENT + "\n    @hookimpl\n    def dgemma_stop_rule(): return []\n")
    with pytest.warns(RuntimeWarning, match=r"dgemma_stop_rule, a hook that does not exist"):
        plugins = Plugins.load()
    assert "did you mean dgemma_stop_rules?" in info(plugins, "typo").problems[0]
    assert plugins.stop_rule("patient") is json.JSONDecoder


def test_a_hook_of_a_later_version_may_be_marked_optional(install: Install) -> None:
    later = "\n    @hookimpl(optionalhook=True)\n    def dgemma_dreams(): return []\n"
    install("modern", PATIENT + later)
    assert info(Plugins.load(), "modern").problems == ()


def test_a_hook_without_its_mark_is_reported(install: Install) -> None:
    install("unmarked", PATIENT + "\n    def dgemma_samplers(): return []\n")
    with pytest.warns(RuntimeWarning, match="dgemma_samplers without the mark @hookimpl"):
        Plugins.load()


def test_a_wrapper_is_refused_because_hooks_are_called_one_by_one(install: Install) -> None:
    wrapper = "\n    @hookimpl(wrapper=True)\n    def dgemma_samplers(): return (yield)\n"
    install("wrapper", PATIENT + wrapper)
    with pytest.warns(RuntimeWarning, match="wraps dgemma_samplers, which cannot be wrapped"):
        plugins = Plugins.load()
    assert info(plugins, "wrapper").offers == (("stop rule", "patient"),)


def test_a_name_of_ours_is_not_taken_by_accident(install: Install) -> None:
    install("rival", PATIENT.replace('"patient"', '"never"'))
    with pytest.warns(RuntimeWarning, match="'never', which plugin 'dgemma_backend' has already"):
        plugins = Plugins.load()
    assert "replaces=True" in info(plugins, "rival").problems[0]
    assert plugins.stop_rule("never") is not json.JSONDecoder


def test_a_name_of_ours_is_replaced_when_the_plugin_says_so(install: Install) -> None:
    source = PATIENT.replace('"patient"', '"never"').replace('"waits"', '"waits", replaces=True')
    install("rival", source)
    plugins = Plugins.load()
    assert plugins.stop_rule("never") is json.JSONDecoder
    assert ("stop rule", "never") in info(plugins, "rival").offers
    assert ("stop rule", "never") not in info(plugins, "dgemma_backend").offers


def test_between_two_strangers_the_first_by_name_keeps_the_part(install: Install) -> None:
    install("alpha", PATIENT)
    install("beta", PATIENT.replace('summary="waits"', 'summary="waits", replaces=True'))
    with pytest.warns(RuntimeWarning, match="plugin 'beta' offers the stop rule 'patient'"):
        plugins = Plugins.load()
    assert info(plugins, "alpha").offers == (("stop rule", "patient"),)
    assert info(plugins, "beta").offers == ()


def test_two_plugins_of_one_name_are_a_clash(install: Install) -> None:
    install("same", PATIENT, dist="first")
    install("same", PATIENT, dist="second")
    with pytest.warns(RuntimeWarning, match="shares its name with a plugin from second 1.0"):
        plugins = Plugins.load()
    assert info(plugins, "same").source == "first 1.0"


def test_only_plugins_on_the_allow_list_are_imported(install: Install) -> None:
    install("wanted", PATIENT)
    install("other", "raise RuntimeError('imported')")
    plugins = Plugins.load(env={"DGEMMA_PLUGINS": "wanted"})
    assert info(plugins, "wanted").status == "ok"
    assert info(plugins, "other").status == "blocked"
    assert info(plugins, "other").problems == ()


def test_an_empty_allow_list_means_none_and_a_block_list_means_not_these(install: Install) -> None:
    install("wanted", PATIENT)
    assert info(Plugins.load(env={"DGEMMA_PLUGINS": ""}), "wanted").status == "blocked"
    blocked = Plugins.load(env={"DGEMMA_DISABLE_PLUGINS": " wanted ,"})
    assert info(blocked, "wanted").status == "blocked"
    with pytest.raises(UnknownPluginError, match="no stop rule 'patient'"):
        blocked.stop_rule("patient")


@pytest.mark.parametrize("variable", ["DGEMMA_PLUGINS", "DGEMMA_DISABLE_PLUGINS"])
def test_a_plugin_named_in_vain_is_reported(install: Install, variable: str) -> None:
    install("waiting", PATIENT)
    expected = f"'wating' is named in {variable} and not installed; did you mean 'waiting'"
    with pytest.warns(RuntimeWarning, match=expected):
        Plugins.load(env={variable: "wating"})


def test_our_own_parts_cannot_be_switched_off() -> None:
    with pytest.warns(RuntimeWarning, match="cannot be switched off"):
        plugins = Plugins.load(env={"DGEMMA_DISABLE_PLUGINS": "dgemma_backend"}, installed=False)
    assert info(plugins, "dgemma_backend").offers


def test_strict_mode_turns_any_problem_into_an_error(install: Install) -> None:
    install("broken", "1 / 0")
    with pytest.raises(PluginError, match="plugin 'broken' cannot be loaded: ZeroDivisionError"):
        Plugins.load(env={"DGEMMA_STRICT_PLUGINS": "1"})
    with pytest.raises(PluginError, match="DGEMMA_STRICT_PLUGINS='yes' must be 0 or 1"):
        Plugins.load(env={"DGEMMA_STRICT_PLUGINS": "yes"})


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("no_such_package.rule:Rule", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("json:Rule", "AttributeError: module 'json' has no attribute 'Rule'"),
    ],
)
def test_a_part_that_is_not_where_it_should_be_names_its_plugin(
    install: Install, factory: str, problem: str
) -> None:
    install("lost", PATIENT.replace("json:JSONDecoder", factory))
    with pytest.raises(PluginError, match=f"'patient' of plugin 'lost' cannot be had .*{problem}"):
        Plugins.load().stop_rule("patient")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_there_are() -> None:
    plugins = Plugins.load(installed=False, env={})
    with pytest.raises(
        UnknownPluginError,
        match="no stop rule 'nevr'. Did you mean 'never'. There are: stable_and_confident, never",
    ):
        plugins.stop_rule("nevr")
    with pytest.raises(UnknownPluginError, match="no quantization 'int5'. Did you mean 'int4'"):
        plugins.quantization("int5")


def watcher(seen: list[object], hook: str) -> ModuleType:
    argument = {"dgemma_on_step": "step", "dgemma_on_canvas": "canvas"}.get(hook, "info")
    plugin = ModuleType("watcher")
    scope: dict[str, object] = {"seen": seen}
    exec(f"def {hook}({argument}): seen.append({argument})", scope)  # real arguments, by name
    setattr(plugin, hook, hookimpl(scope[hook]))  # type: ignore[call-overload]
    return plugin


@pytest.mark.parametrize("hook", OBSERVER_HOOKS)
def test_observers_are_shown_what_happens(hook: str) -> None:
    seen: list[object] = []
    plugins = Plugins.load(given={"watcher": watcher(seen, hook)}, installed=False, env={})
    method = hook.removeprefix("dgemma_")
    getattr(plugins, method)("something")
    assert seen == ["something"]
    assert [each for each in OBSERVER_HOOKS if plugins.observes(each)] == [hook]
    assert info(plugins, "watcher").observes == (hook,)


def test_an_observer_may_leave_out_its_argument() -> None:
    calls: list[int] = []
    plugin = ModuleType("careless")
    plugin.dgemma_on_step = hookimpl(lambda: calls.append(1))  # type: ignore[attr-defined]
    Plugins.load(given={"careless": plugin}, installed=False, env={}).on_step("a step")
    assert calls == [1]


def test_an_observer_that_raises_is_called_once_and_harms_no_other() -> None:
    seen: list[object] = []
    calls: list[object] = []

    def fail(step: object) -> None:
        calls.append(step)
        raise ValueError("oh")

    bad = ModuleType("bad")
    bad.dgemma_on_step = hookimpl(fail)  # type: ignore[attr-defined]
    given = {"bad": bad, "good": watcher(seen, "dgemma_on_step")}
    plugins = Plugins.load(given=given, installed=False, env={})
    with pytest.warns(RuntimeWarning, match="'bad' failed in dgemma_on_step and is not called"):
        plugins.on_step(1)
    plugins.on_step(2)
    assert (calls, seen) == ([1], [1, 2])
    assert info(plugins, "bad").problems
    assert info(plugins, "bad").observes == ()


def test_a_record_is_checked_when_it_is_made() -> None:
    assert StopRuleRecord("x.y-z_1", "a.b:c.d").summary == ""
    for factory in ("", "a", "a:", ":b", "a:b:c", "a-b:c", "a b:c"):
        with pytest.raises(PluginError, match="must read 'package.module:attribute'"):
            StopRuleRecord("x", factory)
