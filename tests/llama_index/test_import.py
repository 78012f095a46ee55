"""What importing the adapter costs, and what is said where LlamaIndex is missing."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import dgemma_backend
import llama_index.llms.dgemma as package
from dgemma_backend import GenerationSettings, provider
from llama_index.llms.dgemma import DiffusionGemma
from llama_index.llms.dgemma.base import PER_CALL

ROOT = Path(__file__).parents[2]
ROOMS = ("src", "kernels", "integrations")


def run(program: str, *options: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ROOMS)}
    command = [sys.executable, *options, "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names_are_these_and_can_be_had() -> None:
    assert package.__all__ == [
        "DiffusionGemma",
        "DraftEvent",
        "InvalidAnswerError",
        "NoToolCallError",
    ]
    assert all(
        getattr(package, name) is not None and name in dir(package) for name in package.__all__
    )
    with pytest.raises(AttributeError, match="'llama_index.llms.dgemma' has no attribute 'Gemma'"):
        package.Gemma  # noqa: B018


def test_importing_takes_a_twentieth_of_a_second_and_loads_no_framework() -> None:
    program = (
        "import time, sys; start = time.process_time(); import llama_index.llms.dgemma;"
        "print(time.process_time() - start,"
        "[m for m in sys.modules if m.startswith(('llama_index.core', 'torch', 'pydantic'))])"
    )
    found = [run(program).split(maxsplit=1) for _ in range(3)]
    assert min(float(seconds) for seconds, _ in found) < 0.05
    assert {names for _, names in found} == {"[]"}


def test_neither_the_class_nor_its_metadata_load_torch() -> None:
    program = (
        "import sys; from llama_index.llms.dgemma import DiffusionGemma;"
        "llm = DiffusionGemma(model='tiny'); print(llm.metadata.context_window, llm.to_payload(),"
        "[m for m in sys.modules if m.split('.')[0] in ('torch', 'dgemma_kernels')])"
    )
    said = run(program)
    assert said.startswith("1024 ")
    assert said.endswith("[]")


def test_without_llama_index_the_message_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['llama_index.core'] = None\n"
        "import llama_index.llms.dgemma as package\n"
        "try:\n    package.DiffusionGemma\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    said = run(program)
    assert said.startswith("MissingDependencyError DiffusionGemma needs llama-index-core.")
    assert "pip install 'dgemma-backend[llama-index]'" in said


def test_every_setting_of_a_request_is_a_field_with_the_same_default() -> None:
    own = DiffusionGemma.model_fields
    for setting in fields(GenerationSettings):
        if setting.name not in PER_CALL:
            assert own[setting.name].default == setting.default, setting.name


def test_the_provider_is_the_class() -> None:
    llm = provider("llama_index", model="tiny", temperature=0)
    assert isinstance(llm, DiffusionGemma)
    assert llm.temperature == 0
    assert dgemma_backend.__version__


def test_no_folder_above_it_is_a_package() -> None:
    for folder in ("llama_index", "llama_index/llms"):
        assert not (ROOT / "integrations" / folder / "__init__.py").exists()
