"""The rules of the house that no linter knows."""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "src" / "dgemma_backend",
    ROOT / "kernels" / "dgemma_kernels",
    ROOT / "integrations" / "langchain_dgemma",
    ROOT / "integrations" / "llama_index" / "llms" / "dgemma",
    ROOT / "integrations" / "llm_dgemma",
]
INDEX_FOLDERS = ["integrations/llama_index", "integrations/llama_index/llms"]
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def tracked(pattern: str) -> list[Path]:
    """Files of the project, new ones included, whatever is built or cached left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", pattern]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:  # an unpacked archive rather than a clone
        return [path for room in ("src", "kernels", "integrations", "tests", "examples")
                for path in (ROOT / room).rglob(pattern)]  # fmt: skip
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def shipped() -> list[Path]:
    """Python files that users get."""
    return sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of everything imported anywhere in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_there_is_something_to_look_at() -> None:
    assert len(shipped()) > 40
    assert ROOT / "pyproject.toml" in tracked("*.toml")


def test_folders_of_packages_are_no_packages() -> None:
    # kernels/__init__.py would shadow Hugging Face's `kernels`, one in llama_index/ or llms/
    # would hide llama-index-core, and tests are not importable at all.
    rooms = ["kernels", "integrations", "tests", "examples"]
    folders = [ROOT / room for room in [*rooms, *INDEX_FOLDERS]]
    assert [folder for folder in folders if (folder / "__init__.py").exists()] == []
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_package_says_it_is_typed() -> None:
    assert [package.name for package in PACKAGES if not (package / "py.typed").is_file()] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [path for path in tracked("*.py") if path.name in empty] == []


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert {path: n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    found = {
        f"{path.name}:{node.name}": node.end_lineno - node.lineno + 1
        for path in shipped()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: length for name, length in found.items() if length > LONGEST_FUNCTION} == {}


BANNED_MODULES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jinja2")
BANNED_CALLS = ("eval", "exec", "compile", "__import__")


def offences(tree: ast.AST) -> Iterator[str]:
    """Ways for data to become code."""
    for name in imported(tree):
        if name.split(".")[0] in BANNED_MODULES or name in ("torch.load", "torch.save"):
            yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in {("torch", "load"), ("torch", "save")}:
                yield f"torch.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in BANNED_CALLS:
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "shell"):
            yield node.arg


def test_no_shipped_file_turns_data_into_code() -> None:
    assert {path.name: found for path in shipped() if (found := [*offences(parsed(path))])} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "from jinja2 import Template",
        "torch.load('x')",
        "from torch import load",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "open_model(trust_remote_code=True)",
    ],
)
def test_the_ban_sees_what_it_bans(line: str) -> None:
    assert list(offences(ast.parse(line)))


def test_the_backend_does_not_import_its_own_front_door() -> None:
    # `from dgemma_backend import Engine` inside the house would walk round the import contracts.
    allowed = {"dgemma_backend.__version__"}
    modules = {
        f"dgemma_backend.{path.stem if path.is_file() else path.name}"
        for path in PACKAGES[0].iterdir()
    }
    found = {
        path.name: names
        for path in shipped()
        if path.is_relative_to(PACKAGES[0]) and path != PACKAGES[0] / "__init__.py"
        if (
            names := {
                name
                for name in imported(parsed(path))
                if name.count(".") < 2 and name.startswith("dgemma_backend")
            }
            - allowed
            - modules
        )
    }
    assert found == {}


def test_transformers_is_an_oracle_and_never_a_part() -> None:
    found = [
        path for path in shipped()
        if any(name.split(".")[0] == "transformers" for name in imported(parsed(path)))
    ]  # fmt: skip
    assert found == []


def test_every_module_of_kernels_is_compiled_ahead_of_time_and_known_to_mypy() -> None:
    from dgemma_kernels.compile_check import MODULES

    there = {f"dgemma_kernels.{path.stem}" for path in ROOT.glob("kernels/*/*_triton.py")}
    assert there - {"dgemma_kernels.four_bit_triton"} == set(MODULES)  # that one has no kernel
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    overrides = project["tool"]["mypy"]["overrides"]
    named = {name for each in overrides for name in each["module"]}
    assert there <= named
