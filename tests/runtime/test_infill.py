"""Texts with holes: what is fixed stands word for word, whatever the model thinks of it."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dgemma_backend import Engine, Hole, open_engine
from dgemma_backend.errors import ConstraintError, ContextLengthError, SettingError

FAST = {"max_denoising_steps": 1}
PIECES = ("Dear ", " and\n", "é", "日本", '{"a": ', "the old house", " ", "<turn|>", "</x>", "42, ")


@pytest.fixture(scope="module")
def untrained(random_folder: Path) -> Iterator[Engine]:
    with open_engine(random_folder, device="cpu") as engine:
        yield engine


LETTER: list[str | Hole] = [
    "Dear ",
    Hole(100),
    ", thank you for ",
    Hole(100),
    ". Yours, ",
    Hole(20),
]


def test_a_letter_with_long_holes_is_no_larger_than_its_parts(untrained: Any) -> None:
    found = untrained.infill("Write.", LETTER, settings={**FAST, "seed": 1})
    assert found.text.startswith("Dear ")
    compiled = list(untrained._guidance._compiler._cache.values())[-1].automaton
    assert compiled.states < 2_000


def random_template(draw: Random) -> list[str | Hole]:
    holes: tuple[str | Hole, ...] = (
        Hole(max_tokens=draw.randint(1, 12)),
        Hole(max_tokens=8, min_tokens=3),
        Hole(max_tokens=9, regex=r"\d{2,4}"),
        Hole(max_tokens=30, choices=["red", "dark green"]),
    )
    parts: list[str | Hole] = [draw.choice([*PIECES, *holes]) for _ in range(draw.randint(2, 8))]
    return [*parts, draw.choice(holes)]


def test_fixed_text_is_word_for_word_over_any_number_of_canvases(untrained: Engine) -> None:
    canvases = set()
    for seed in range(40):
        template = random_template(Random(seed))
        found = untrained.infill("Write.", template, settings={**FAST, "seed": seed})
        at, rest = 0, found.text
        for part in template:
            if isinstance(part, str):
                assert part in rest[at:]
                at = rest.index(part, at) + len(part)
        assert found.text == found.reply.text
        assert found.reply.finish_reason == "stop"
        canvases.add(found.reply.usage.canvases)
    assert len(canvases) > 2


def test_holes_keep_to_their_pattern_choices_and_length(untrained: Engine) -> None:
    template: list[str | Hole] = [
        "[", Hole(max_tokens=9, regex=r"\d{2,4}"), "] [", Hole(max_tokens=30, choices=["a b", "c"]),
        "] [", Hole(max_tokens=5, min_tokens=2), "]",
    ]  # fmt: skip
    for seed in range(15):
        found = untrained.infill("Write.", template, settings={**FAST, "seed": seed})
        number, choice, free = found.holes
        assert re.fullmatch(r"\d{2,4}", number)
        assert choice in ("a b", "c")
        assert found.text == f"[{number}] [{choice}] [{free}]"
        assert found.reply.usage.completion_tokens <= 9 + 30 + 5 + 20


def test_an_edit_changes_its_span_and_nothing_else(tiny: Engine) -> None:
    text = "The old river is\ngreen, und schön: 日本."
    for seed, span in enumerate([(4, 7), (0, 3), (len(text) - 3, len(text)), (17, 22), (5, 5)]):
        found = tiny.edit(text, span, settings={"seed": seed})
        begin, end = text[: span[0]], text[span[1] :]
        assert found.text.startswith(begin)
        assert found.text.endswith(end)
        assert len(found.text) >= len(begin) + len(end)


async def test_infilling_can_be_awaited(tiny: Engine) -> None:
    template: list[str | Hole] = ["The river is ", Hole(max_tokens=6), "."]
    found = await tiny.ainfill("Tell me.", template, settings={"seed": 3})
    assert found.text == tiny.infill("Tell me.", template, settings={"seed": 3}).text


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([], {}, SettingError, "without a Hole"),
    (["only text"], {}, SettingError, "without a Hole"),
    ("text", {}, SettingError, "a list of strings and Hole objects"),
    ([None, Hole(max_tokens=2)], {}, SettingError, "a list of strings and Hole objects"),
    (["a" * 5000, Hole(max_tokens=2)], {}, ContextLengthError, "does not fit"),
    (["x", Hole(max_tokens=1, choices=["the old river is green"])], {}, ConstraintError, ""),
    (["x ", Hole(max_tokens=9, min_tokens=9)], {"max_tokens": 4}, ConstraintError, "max_tokens"),
]


@pytest.mark.parametrize(("template", "settings", "error", "message"), BAD)
def test_templates_that_cannot_be_filled_are_refused_before_any_pass(
    tiny: Any, template: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    ran: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny._model, "encode", lambda *_: ran.append(1))
        with pytest.raises(error) as told:
            tiny.infill("Write.", template, settings=settings)
    assert message in str(told.value)
    assert ran == []


@pytest.mark.parametrize("span", [(-1, 2), (3, 2), (0, 99)])
def test_a_span_outside_the_text_is_refused(tiny: Engine, span: tuple[int, int]) -> None:
    with pytest.raises(SettingError, match="is not within a text of 5 characters"):
        tiny.edit("hello", span)
