import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import dgemma_backend
from dgemma_backend.errors import MissingDependencyError, UnknownPluginError
from dgemma_backend.hookspecs import ProviderRecord
from dgemma_backend.plugins import Plugins
from dgemma_backend.plugins.requirements import check_requirements

ROOT = Path(__file__).parents[2]


def test_a_provider_is_built_by_name_with_the_options_it_was_given(
    install: Callable[..., Path],
) -> None:
    install(
        "fractions",
        """
        @hookimpl
        def dgemma_providers():
            return [ProviderRecord("fraction", "fractions:Fraction", requires=("pytest>=1",))]
        """,
    )
    made = dgemma_backend.provider("fraction", numerator=1, denominator=2)
    assert str(made) == "1/2"


def test_an_unknown_provider_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownPluginError, match="no provider 'langhcain'. Did you mean 'langchai"):
        dgemma_backend.provider("langhcain")


def test_a_missing_framework_is_answered_with_the_command_that_installs_it() -> None:
    ours = ProviderRecord("x", "a:b", requires=("no-such-thing>=2",), extra="xtra")
    with pytest.raises(
        MissingDependencyError,
        match=r"provider 'x' needs no-such-thing>=2, and no-such-thing is not installed: "
        r"pip install 'dgemma-backend\[xtra\]'",
    ):
        check_requirements(ours)
    with pytest.raises(ImportError, match="pip install 'no-such-thing>=2'"):
        check_requirements(ProviderRecord("x", "a:b", requires=("no-such-thing>=2",)))


def test_a_framework_out_of_range_is_named_with_the_version_found() -> None:
    record = ProviderRecord("x", "a:b", requires=("pytest<1",))
    with pytest.raises(MissingDependencyError, match=r"needs pytest<1, and pytest \d+\S+ is inst"):
        check_requirements(record)


def test_the_class_is_not_imported_when_its_framework_is_missing(
    monkeypatch: pytest.MonkeyPatch, install: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "needy_adapter.py").write_text("raise RuntimeError('imported all the same')")
    install(
        "needy",
        """
        @hookimpl
        def dgemma_providers():
            return [ProviderRecord("needy", "needy_adapter:X", requires=("no-such-thing",))]
        """,
    )
    with pytest.raises(MissingDependencyError):
        Plugins.load().provider("needy")
    assert "needy_adapter" not in sys.modules


def test_our_providers_ask_for_what_their_extra_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for record in Plugins.load(installed=False, env={}).records("provider"):
        assert isinstance(record, ProviderRecord)
        assert list(record.requires) == project["optional-dependencies"][record.extra]


def test_langchain_is_built_by_its_name() -> None:
    model = dgemma_backend.provider("langchain", model="tiny", temperature=0)
    assert type(model).__name__ == "ChatDiffusionGemma"
    assert (model.model, model.temperature) == ("tiny", 0)
