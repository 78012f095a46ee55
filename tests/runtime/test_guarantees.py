"""What decoding guarantees holds for every output of a trained and of an untrained model."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend import Engine, ResponseFormat, Tool, ToolChoice, open_engine
from dgemma_backend.errors import ConstraintError, SettingError, UnsupportedSchemaError

_spec = importlib.util.spec_from_file_location(
    "guarantees", Path(__file__).with_name("guarantees.py")
)
assert _spec is not None
assert _spec.loader is not None
guarantees: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(guarantees)

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def untrained(random_folder: Path) -> Iterator[Engine]:
    with open_engine(random_folder, device="cpu") as engine:
        yield engine


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_outputs_of_100_schemas_are_accepted_by_two_judges(
    tiny: Engine, untrained: Engine, part: int
) -> None:
    tally = guarantees.Tally()
    for number, schema in list(enumerate(guarantees.schemas(100)))[part::4]:
        guarantees.run(tiny if number % 3 == 0 else untrained, schema, number, 2, tally)
    assert sum(tally.kinds.values()) >= 50
    assert tally.kinds["data"] >= 20


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("mode", ["auto", "required", "named", "none"])
def test_tool_choice_holds_by_construction(untrained: Engine, mode: str, thinking: bool) -> None:
    tools = [Tool("store", "", PERSON), Tool("stop", "", {})]
    choice = ToolChoice.named("stop") if mode == "named" else ToolChoice(mode)  # type: ignore[arg-type]
    for seed in range(12):
        settings = {"seed": seed, "max_tokens": 80, "max_denoising_steps": 2, "thinking": thinking}
        reply = untrained.generate("hi", tools=tools, tool_choice=choice, settings=settings)
        names = {call.name for call in reply.tool_calls}
        assert not reply.invalid_tool_calls
        if mode == "none":
            assert names == set()
        elif mode == "named":
            assert names == {"stop"}
        elif mode == "required":
            assert names
        for call in reply.tool_calls:
            problems = guarantees.judges.schema_errors(PERSON, dict(call.arguments))
            assert call.name == "stop" or not problems


def test_one_call_at_most_where_calls_may_not_be_parallel(untrained: Engine) -> None:
    tools = [Tool("a", "", {}), Tool("b", "", {})]
    counts = set()
    for parallel in (True, False):
        for seed in range(10):
            reply = untrained.generate(
                "hi",
                tools=tools,
                tool_choice=ToolChoice("required", parallel=parallel),
                settings={"seed": seed, "max_tokens": 60, "max_denoising_steps": 1},
            )
            counts.add((parallel, len(reply.tool_calls)))
    assert {count for parallel, count in counts if not parallel} == {1}
    assert max(count for parallel, count in counts if parallel) > 1


def test_choices_and_patterns_are_kept_to(untrained: Engine) -> None:
    for seed in range(10):
        settings = {"seed": seed, "max_tokens": 40, "max_denoising_steps": 2}
        one = untrained.generate(
            "hi", response_format=ResponseFormat.choices(["red", "dark green"]), settings=settings
        )
        assert one.text in ("red", "dark green")
        other = untrained.generate(
            "hi", response_format=ResponseFormat.regex(r"[A-Z]{2}-\d{3,5}"), settings=settings
        )
        assert guarantees.judges.samples  # the judges' module is there
        head, _, tail = other.text.partition("-")
        assert len(head) == 2
        assert head.isupper()
        assert 3 <= len(tail) <= 5
        assert tail.isdecimal()


def test_a_stop_string_and_a_seed_work_as_ever(untrained: Engine) -> None:
    form = ResponseFormat.json_schema(PERSON)
    settings = {"seed": 4, "max_tokens": 64, "max_denoising_steps": 4}
    first, second = (
        untrained.generate("hi", response_format=form, settings=settings) for _ in range(2)
    )
    assert first.text == second.text
    cut = untrained.generate("hi", response_format=form, settings={**settings, "stop": ('"age"',)})
    assert cut.text == first.text.partition('"age"')[0]
    assert cut.finish_reason == "stop"


def test_a_thought_budget_goes_with_a_form(untrained: Engine) -> None:
    for seed in range(8):
        reply = untrained.generate(
            "hi",
            response_format=ResponseFormat.json_schema(PERSON),
            settings={
                "seed": seed,
                "max_tokens": 100,
                "max_denoising_steps": 1,
                "thinking": True,
                "thinking_budget": 20,
            },
        )
        assert not guarantees.judges.schema_errors(PERSON, guarantees.json.loads(reply.text))


def test_what_decoding_cannot_guarantee_is_refused_or_checked(tiny: Engine) -> None:
    schema = {"type": "string", "not": {"const": "x"}, "maxLength": 4}
    with pytest.raises(UnsupportedSchemaError, match="not"):
        tiny.generate("hi", response_format=ResponseFormat.json_schema(schema))
    checked = ResponseFormat.json_schema(schema, on_unsupported="validate")
    reply = tiny.generate("hi", response_format=checked, settings={"seed": 1})
    assert not guarantees.judges.schema_errors(schema, guarantees.json.loads(reply.text))


def test_an_answer_that_fails_its_check_is_written_anew_and_then_refused(tiny: Engine) -> None:
    from dgemma_backend.errors import ResponseFormatError

    impossible = {"type": "integer", "minimum": 1, "maximum": 3, "not": {"type": "integer"}}
    form = ResponseFormat.json_schema(impossible, on_unsupported="validate")
    seen = list[object]()
    with pytest.raises(ResponseFormatError, match="3 answers in a row"):
        seen += tiny.stream("hi", response_format=form, settings={"max_tokens": 8})
    assert seen == []
    assert tiny.generate("Who are you?", settings={"max_tokens": 8}).text


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (ResponseFormat.json_schema({"type": "strin"}), {}, SettingError, "strin"),
    (ResponseFormat.json_schema(PERSON), {"max_tokens": 3}, ConstraintError, "max_tokens"),
    (ResponseFormat.choices([]), {}, ConstraintError, "choices must be"),
    (ResponseFormat.choices(["a", "a"]), {}, ConstraintError, "twice"),
    (ResponseFormat.regex("("), {}, ConstraintError, "regex|pattern"),
    (ResponseFormat.json(), {"top_k": 5}, SettingError, "steering='joint'"),
]


@pytest.mark.parametrize(("form", "settings", "error", "message"), BAD)
def test_forms_that_cannot_be_are_refused_before_any_pass(
    tiny: Any, form: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    ran: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny._model, "encode", lambda *_: ran.append(1))
        with pytest.raises(error, match=message):
            tiny.generate("hi", response_format=form, settings=settings)
    assert ran == []
    assert tiny.generate("Who are you?", settings={"max_tokens": 4}).usage.canvases == 1
