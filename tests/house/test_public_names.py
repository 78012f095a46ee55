"""What `import dgemma_backend` gives, and what it costs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dgemma_backend

ROOT = Path(__file__).parents[2]
HEAVY = {
    "torch",
    "transformers",
    "langchain_core",
    "llama_index",
    "tokenizers",
    "safetensors",
    "rich",
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run `program` in a fresh interpreter that sees the sources."""
    rooms = os.pathsep.join(str(ROOT / room) for room in ("src", "kernels", "integrations"))
    env = {**os.environ, "PYTHONPATH": rooms}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True)


def loaded_by(program: str) -> set[str]:
    """Which heavy packages are in `sys.modules` after `program`."""
    done = run(f"{program}\nimport sys\nprint(*({HEAVY} & sys.modules.keys()))")
    return set(done.stdout.splitlines()[-1].split())


def test_the_public_names_are_this_list() -> None:
    assert dgemma_backend.__all__ == [
        "YES_NO",
        "Decision",
        "Engine",
        "GenerationSettings",
        "Hole",
        "Image",
        "Infill",
        "Limits",
        "Message",
        "Reply",
        "ResponseFormat",
        "Score",
        "ScriptedEngine",
        "Text",
        "Tool",
        "ToolCall",
        "ToolChoice",
        "UnsafeRawPrompt",
        "Usage",
        "__version__",
        "context_length",
        "errors",
        "events",
        "fingerprint",
        "open_engine",
        "provider",
    ]


@pytest.mark.parametrize("name", dgemma_backend.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(dgemma_backend, name) is not None
    assert name in dir(dgemma_backend)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'dgemma_backend' has no attribute 'engine_of_doom'"):
        dgemma_backend.engine_of_doom  # noqa: B018


def test_the_words_can_be_imported_from_the_front() -> None:
    messages = importlib.import_module("dgemma_backend.messages")
    assert dgemma_backend.Message is messages.Message


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import dgemma_backend") == set()


def test_words_settings_and_plugins_load_nothing_heavy() -> None:
    program = """
from dgemma_backend import GenerationSettings, Message, errors, events, provider
from dgemma_backend.plugins import Plugins
Plugins.load(installed=False, env={})
"""
    assert loaded_by(program) == set()


def test_the_chat_protocol_loads_no_torch() -> None:
    assert loaded_by("import dgemma_backend.chat.protocol") <= {"tokenizers"}


def test_importing_the_package_takes_under_a_tenth_of_a_second() -> None:
    program = """
import time
start = time.process_time()
import dgemma_backend
print(time.process_time() - start)
"""
    seconds = min(float(run(program).stdout) for _ in range(3))
    assert seconds < 0.1
