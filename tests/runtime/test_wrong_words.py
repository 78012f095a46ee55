"""What cannot be meant is refused by name, with the value and what to write instead."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from dgemma_backend import Engine, Hole, ResponseFormat, Score, Tool, ToolChoice
from dgemma_backend.errors import ConstraintError, SettingError

ADD = Tool("add", "Adds.", {})
WRONG: list[tuple[Callable[[Any], object], str]] = [
    (lambda e: e.generate("x", tools=["add"]), "a list of Tool objects, got 'add'"),
    (lambda e: e.generate("x", tools=[{"name": "add"}]), "a list of Tool objects"),
    (lambda e: e.generate("x", tools=ADD), "a list of Tool objects"),
    (lambda e: e.generate("x", tools=[ADD], tool_choice="required"), "must be a ToolChoice"),
    (lambda e: e.generate("x", response_format={"type": "object"}), "must be a ResponseFormat"),
    (lambda _: ResponseFormat.json_schema('{"type": "integer"}'), "cannot be"),
    (lambda _: ResponseFormat.choices("yes"), "cannot be 'yes'"),
    (lambda _: ResponseFormat.regex(None), "cannot be None"),  # type: ignore[arg-type]
    (lambda _: ResponseFormat("foo", 1), "kind 'foo'"),  # type: ignore[arg-type]
    (lambda _: Hole(4, choices="yes"), "must be a list of texts"),
    (lambda _: Hole("4"), "must be whole numbers"),  # type: ignore[arg-type]
    (lambda _: Score("1", "5"), "whole numbers"),  # type: ignore[arg-type]
    (lambda e: e.edit("abc", "ab"), "a span of two places"),
    (lambda e: e.edit("abc", (1,)), "a span of two places"),
    (lambda e: e.edit(5, (0, 1)), "a text and a span"),
    (lambda e: e.decide_all("abc", ["a", "b"]), "many conversations, got one text, 'abc'"),
    (lambda e: e.infill("x", ["he", Hole(4)], settings={"stop": "l"}), "could cut a template"),
    (lambda e: e.infill("x", [Hole(4)], settings={"thinking": True}), "no place in a template"),
    (lambda e: e.generate("x", tools=[ADD, ADD], tool_choice=ToolChoice("required")), "one name"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_words_are_refused_with_their_value(
    tiny: Engine, call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises((SettingError, ConstraintError), match=message):
        call(tiny)


def test_holes_side_by_side_are_told_apart_by_what_they_may_hold(tiny: Engine) -> None:
    template = [
        Hole(4, choices=["yes", "no"]),
        Hole(4, choices=["!", "?"]),
        Hole(5, regex=r"\d{3}"),
    ]
    first, mark, number = tiny.infill("x", template, settings={"seed": 1}).holes
    assert first in ("yes", "no")
    assert mark in ("!", "?")
    assert number.isdecimal()


def test_a_fork_may_open_an_engine_of_its_own() -> None:
    program = (
        "import os, warnings; warnings.simplefilter('ignore');"
        "from dgemma_backend import open_engine;"
        "ask = lambda: open_engine('tiny', device='cpu').generate("
        "'Who are you?', settings={'seed': 1, 'max_tokens': 16}).text;"
        "import torch; torch.set_num_threads(1); said = ask(); child = os.fork();\n"
        "if child == 0: os._exit(0 if ask() == said else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "0"
