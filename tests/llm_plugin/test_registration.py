"""What the plugin costs every `llm` command, and that it can end none."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import llm
import pytest

import llm_dgemma

HEAVY = ("torch", "transformers", "langchain_core", "llama_index", "dgemma_kernels", "tokenizers")


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = ":".join(sys.path)
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env},
    )


def test_both_models_are_registered() -> None:
    found: list[tuple[Any, Any]] = []
    llm_dgemma.register_models(lambda model, async_model: found.append((model, async_model)))
    assert [(a.model_id, b.model_id) for a, b in found] == [
        ("dgemma-tiny", "dgemma-tiny"),
        ("dgemma", "dgemma"),
    ]
    assert all(isinstance(a, llm.Model) and isinstance(b, llm.AsyncModel) for a, b in found)


def test_the_big_model_can_be_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGEMMA_MODEL", "/models/mine")
    found: list[Any] = []
    llm_dgemma.register_models(lambda model, async_model: found.append(model.model))
    assert found == ["tiny", "/models/mine"]


def test_llm_finds_it_by_its_entry_point() -> None:
    named = {entry.name: entry.value for entry in entry_points(group="llm")}
    assert named.get("dgemma") == "llm_dgemma", "install the project anew: pip install -e ."


def test_registering_loads_nothing_heavy() -> None:
    program = (
        "import sys, llm_dgemma; llm_dgemma.register_models(lambda *models: None);"
        f"print(sorted(set({HEAVY}) & sys.modules.keys()))"
    )
    assert run("-c", program).stdout.strip() == "[]"


def test_a_broken_plugin_is_a_warning_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_dgemma.models", None)
    llm_dgemma.register_models(lambda *models: None)  # warnings are errors in this test run
    monkeypatch.undo()
    found = run(
        "-c",
        "import sys; sys.modules['llm_dgemma.models'] = None; import llm_dgemma;"
        "llm_dgemma.register_models(print); print('goes on')",
    )
    assert found.stdout.strip() == "goes on"
    assert "the dgemma models are not available" in found.stderr


@pytest.mark.slow
def test_the_command_answers_from_the_tiny_model(tmp_path: Path) -> None:
    asked = ["-m", "llm", "-m", "dgemma-tiny", "Who are you?", "-o", "seed", "0"]
    done = run(*asked, LLM_USER_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stdout
    wrong = run(*asked[:4], "-o", "temperature", "7", LLM_USER_PATH=str(tmp_path))
    assert wrong.returncode == 1
    assert "temperature=7.0 must be a finite number from 0 to 2" in wrong.stderr
