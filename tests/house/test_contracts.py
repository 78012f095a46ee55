"""Each import contract of pyproject.toml breaks when, and only when, its arrow is violated."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("src", "kernels", "integrations")

PLANTED = [
    ("adapters-use-public-names", "integrations/langchain_dgemma/__init__.py", "import torch"),
    (
        "adapters-use-public-names",
        "integrations/langchain_dgemma/__init__.py",
        "from dgemma_backend.runtime.engine import Engine",
    ),
    (
        "adapters-use-public-names",
        "integrations/llama_index/llms/dgemma/fold.py",
        "from dgemma_backend.chat import parser",
    ),
    ("adapters-use-public-names", "integrations/llm_dgemma/convert.py", "import torch"),
    (
        "adapters-are-strangers",
        "integrations/langchain_dgemma/__init__.py",
        "import llama_index.llms.dgemma",
    ),
    (
        "adapters-are-strangers",
        "integrations/llm_dgemma/__init__.py",
        "import langchain_dgemma",
    ),
    ("walk", "src/dgemma_backend/runtime/engine.py", "import dgemma_backend.cli"),
    ("walk", "src/dgemma_backend/chat/protocol.py", "import dgemma_backend.plugins"),
    ("walk", "src/dgemma_backend/messages.py", "import dgemma_backend.settings"),
    (
        "rooms-are-strangers",
        "src/dgemma_backend/diffusion/denoise.py",
        "from dgemma_backend import model",
    ),
    (
        "rooms-are-strangers",
        "src/dgemma_backend/weights/checkpoint.py",
        "from dgemma_backend.diffusion import noise",
    ),
    (
        "kernels-know-nothing",
        "kernels/dgemma_kernels/norm.py",
        "from dgemma_backend.errors import DgemmaError",
    ),
    ("words-load-no-torch", "src/dgemma_backend/messages.py", "import torch"),
    ("words-load-no-torch", "src/dgemma_backend/chat/tokens.py", "from dgemma_kernels import norm"),
]


def contracts() -> dict[str, str]:
    """Contract names by id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {each["name"]: each["id"] for each in settings["contracts"]}


def broken(house: Path) -> set[str]:
    """Ids of the contracts that `house` breaks."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(house / room) for room in ROOMS)}
    program = "import sys; from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=house,
        env={**env, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    said = re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, flags=re.MULTILINE)
    verdicts = {contracts()[name]: verdict for name, verdict in said}
    assert set(verdicts) == set(contracts().values()), done.stdout + done.stderr
    return {name for name, verdict in verdicts.items() if verdict == "BROKEN"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources that may be spoilt."""
    copy = tmp_path_factory.mktemp("house")
    for room in ROOMS:
        only_code = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json")
        shutil.copytree(ROOT / room, copy / room, ignore=only_code)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def test_the_house_itself_keeps_all_six_contracts(house: Path) -> None:
    assert len(contracts()) == 6
    assert broken(house) == set()


def test_every_contract_has_a_planted_violation() -> None:
    assert {name for name, _, _ in PLANTED} == set(contracts().values())


@pytest.mark.parametrize(("contract", "file", "line"), PLANTED)
def test_a_planted_import_breaks_just_its_contract(
    house: Path, contract: str, file: str, line: str
) -> None:
    spoilt = house / file
    before = spoilt.read_text()
    spoilt.write_text(f"{before}\n{line}\n")
    try:
        assert broken(house) == {contract}
    finally:
        spoilt.write_text(before)


def test_a_module_without_a_place_in_the_walk_is_refused(house: Path) -> None:
    stray = house / "src" / "dgemma_backend" / "stray.py"
    stray.write_text("")
    try:
        assert broken(house) == {"walk"}
    finally:
        stray.unlink()
