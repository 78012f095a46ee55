import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError

import pytest

from dgemma_backend.cli import findings
from dgemma_backend.cli.findings import Finding

Dgemma = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_the_doctor_runs_the_built_in_model(dgemma: Dgemma) -> None:
    code, out, _ = dgemma("doctor", "--json")
    found = {each["name"]: each for each in json.loads(out)}
    assert code == 0
    assert found["model tiny"]["status"] == "ok"
    assert "answered in" in found["model tiny"]["detail"]
    assert {"python", "torch", "cpu", "plugin dgemma_backend"} <= found.keys()


def test_a_problem_is_marked_mended_and_makes_exit_code_1(
    dgemma: Dgemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Finding("a", "ok", "fine"), Finding("model", "problem", "not\x1b there", "fetch it")]
    monkeypatch.setattr(findings, "examine", lambda: found)
    code, out, _ = dgemma("doctor")
    assert code == 1
    assert out.splitlines()[1:] == ["PROBLEM model  not there", "               -> fetch it"]


def test_a_check_that_fails_is_a_finding() -> None:
    def _memory_of_elephants() -> None:
        raise OSError("forgot")

    found = list(findings._guarded(_memory_of_elephants))  # type: ignore[arg-type]
    assert found == [Finding("memory_of_elephants", "problem", "OSError: forgot")]


def test_extras_are_judged_by_the_versions_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"present": "2.1", "old": "1.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(findings, "version", version)
    assert findings._extra("x", [("present", ">=2")]) == Finding("[x]", "ok", "present 2.1")
    assert findings._extra("x", [("old", ">=2")]).status == "problem"
    missing = findings._extra("x", [("present", ">=2"), ("gone", "")])
    assert (missing.status, missing.mend) == ("absent", "pip install 'dgemma-backend[x]'")


def test_extras_are_read_from_our_own_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = [
        "torch>=2",
        "langchain-core>=1; extra == 'langchain'",
        "dgemma-backend; extra == 'hub'",
    ]
    monkeypatch.setattr(findings, "requires", lambda name: metadata)
    monkeypatch.setattr(findings, "version", lambda name: "1.5")
    found = {each.name: each.detail for each in findings._extras()}
    assert found["[langchain]"] == "langchain-core 1.5"
    assert found["[hub]"].startswith("nothing to install")
