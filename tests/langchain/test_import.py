"""What importing the adapter costs and offers."""

import subprocess
import sys
from pathlib import Path

import langchain_core
import pytest

import langchain_dgemma
from langchain_dgemma import ChatDiffusionGemma


def test_public_names_are_these() -> None:
    assert langchain_dgemma.__all__ == ["ChatDiffusionGemma", "__version__", "register"]


def test_importing_and_constructing_loads_neither_torch_nor_an_engine() -> None:
    program = (
        "import sys; from langchain_dgemma import ChatDiffusionGemma;"
        "ChatDiffusionGemma(model='/no/such/folder');"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'dgemma_kernels')"
        " or m.startswith('dgemma_backend.runtime')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


def test_the_constructor_opens_nothing() -> None:
    assert ChatDiffusionGemma(model="/no/such/folder").model == "/no/such/folder"


def test_the_langchain_that_was_laid_over_the_venv_is_the_one_that_is_tested() -> None:
    laid = [Path(each).resolve() for each in sys.path if Path(each).name.startswith("langchain-")]
    if not laid:
        pytest.skip("nothing is laid over the venv: its own LangChain is tested")
    assert Path(langchain_core.__file__).is_relative_to(laid[0])
