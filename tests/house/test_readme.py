"""What the README says is run, so that it stays true."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from dgemma_backend.cli import commands

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def block_with(text: str) -> str:
    found: list[str] = [block for block in BLOCKS if text in block]
    assert len(found) == 1
    return found[0]


def run(program: str) -> str:
    rooms = os.pathsep.join(str(ROOT / room) for room in ("src", "kernels", "integrations"))
    env = {**os.environ, "PYTHONPATH": rooms}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_first_example_answers() -> None:
    assert re.fullmatch(r"\S.* \d+\n", run(block_with("denoising_steps")))


@pytest.mark.slow
def test_the_example_of_guaranteed_forms_keeps_to_them() -> None:
    data, letter, shares = run(block_with("ResponseFormat")).splitlines()
    assert set(json.loads(data)) == {"name", "age"}
    assert re.fullmatch(r"Dear .*, hello!", letter)
    assert set(ast.literal_eval(shares)) == {"yes", "no"}


@pytest.mark.slow
def test_the_langchain_example_answers() -> None:
    assert "Magnus Pinto" in run(block_with("langchain_dgemma"))


@pytest.mark.slow
def test_the_llama_index_example_answers() -> None:
    assert "Magnus Pinto" in run(block_with("llama_index"))


def test_the_plugin_example_is_the_plugin_example() -> None:
    scope: dict[str, Callable[[], list[object]]] = {}
    exec(block_with("hookimpl"), scope)
    assert len(scope["dgemma_stop_rules"]()) == 1


def test_every_command_of_the_table_exists_and_every_verb_is_in_it() -> None:
    told = {shlex.split(line)[1] for line in re.findall(r"^\| `(dgemma [^`\\]+)`", README, re.M)}
    assert told == set(commands.list_commands(click.Context(commands)))


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_map_shows_every_room_there_is() -> None:
    house = README.partition("## The map of the house")[2].partition("```\n\n")[0]
    rooms = {
        path.stem
        for path in (ROOT / "src" / "dgemma_backend").iterdir()
        if not path.name.startswith(("__", "py."))
    }
    assert {room for room in rooms if not re.search(rf"\b{room}\b", house)} == set()
