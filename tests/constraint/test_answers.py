"""Whole answers: thoughts, tool calls, ends; read back by the chat parser."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.constraint import ConstraintCompiler, schema_errors
from dgemma_backend.errors import ConstraintError, SettingError, UnsupportedSchemaError
from dgemma_backend.events import InvalidToolCallDone, ReasoningDelta, TextDelta, ToolCallDone
from dgemma_backend.messages import Tool, ToolChoice

NAMES = ("id", "name", "Size", "kind", "a b", "x:y", "when", 'q"{')
WEATHER = Tool(
    "get_weather", "",
    {"type": "object", "properties": {"days": {"type": "integer"}, "City": {"type": "string"}},
     "required": ["City"]},
)  # fmt: skip
NOW = Tool("now")
AUTO, NONE, REQUIRED = ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")
Spelt = Callable[[str], list[int]]


@pytest.fixture
def spelt(protocol: Gemma4Protocol) -> Spelt:
    """Ids of a text in which control tokens are spelt."""
    return protocol.tokenizer.unsafe_encode


def takes(constraint: Any, ids: list[int]) -> bool:
    automaton = constraint.automaton
    return bool(automaton.advance(automaton.start, ids) == automaton.done)


def read(protocol: Gemma4Protocol, tools: list[Tool], ids: list[int], thinking: bool) -> list[Any]:
    parser = protocol.new_parser(tools, seed=0, position=0, thinking=thinking)
    return parser.feed(ids) + parser.finish()


def random_tools(judges: Any, draw: random.Random) -> list[Tool]:
    tools = []
    whole = [each for each in judges.samples.WRITTEN if "$ref" not in json.dumps(each)]
    for number in range(draw.randint(1, 3)):
        names = draw.sample(NAMES, draw.randint(0, 4))
        properties = {
            name: judges.samples.generated(draw.randrange(1000))
            if draw.random() < 0.6
            else draw.choice(whole)
            for name in names
        }
        required = [name for name in names if draw.random() < 0.7]
        schema = judges.samples.record_of(properties, required)
        tools.append(Tool(f"tool_{number}", "", schema if names else {}))
    return tools


@pytest.mark.parametrize("seed", range(30))
def test_every_call_is_read_back_with_arguments_that_fit(
    judges: Any, tiny: ConstraintCompiler, protocol: Gemma4Protocol, seed: int
) -> None:
    draw = random.Random(seed)
    tools = random_tools(judges, draw)
    tool_choice = draw.choice([AUTO, REQUIRED, ToolChoice.named("tool_0")])
    thought: Any = draw.choice(["never", "empty", "optional", "required"])
    parallel = draw.random() < 0.6
    constraint = tiny.tools(tools, tool_choice, parallel=parallel, thought=thought)
    walker = judges.Walker(constraint.automaton)
    schemas = {tool.name: tool.parameters or {"maxProperties": 0} for tool in tools}
    for _ in range(5):
        ids = walker.walk(draw, draw.choice([30, 100, 200]))
        events = read(protocol, tools, ids, thinking=thought != "never")
        calls = [event.call for event in events if isinstance(event, ToolCallDone)]
        assert not [event for event in events if isinstance(event, InvalidToolCallDone)]
        assert len(calls) == ids.count(tiny.markers.call_open)
        assert calls or tool_choice is AUTO
        assert parallel or len(calls) <= 1
        for call in calls:
            assert schema_errors(schemas[call.name], dict(call.arguments)) == []
            assert tool_choice.name in (None, call.name)


CALL = '<|tool_call>call:get_weather{City:<|"|>Bonn<|"|>,days:3}<tool_call|>'
NOW_CALL = "<|tool_call>call:now{}<tool_call|>"
THOUGHT = "<|channel>thought\nhm, \n<channel|>"
DATA = '{"City": "Bonn"}'


@pytest.mark.parametrize(
    ("tool_choice", "options", "inside", "outside"),
    [
        (AUTO, {},
         ["Hello<turn|>", f"{CALL}<|tool_response>", f"Hm. {CALL}{NOW_CALL}<|tool_response>"],
         [f"{CALL}<turn|>", "Hello<|tool_response>", f"{CALL}Hm.<turn|>", f"{THOUGHT}Hi<turn|>",
          "<|tool_call>call:other{}<tool_call|><|tool_response>",
          "<|tool_call>call:get_weather{}<tool_call|><|tool_response>",
          "<|tool_call>call:now{}<turn|>"]),
        (REQUIRED, {}, [f"{CALL}<|tool_response>", f"{NOW_CALL}{CALL}<|tool_response>"],
         ["Hello<turn|>", f"Hm. {CALL}<|tool_response>", "<turn|>"]),
        (REQUIRED, {"parallel": False}, [f"{CALL}<|tool_response>"],
         [f"{CALL}{CALL}<|tool_response>"]),
        (REQUIRED, {"thought": "required"}, [f"{THOUGHT}{CALL}<|tool_response>"],
         [f"{CALL}<|tool_response>", f"{THOUGHT}Hello<turn|>"]),
        (ToolChoice.named("now"), {}, [f"{NOW_CALL}<|tool_response>"],
         [f"{CALL}<|tool_response>", "Hello<turn|>"]),
        (NONE, {"thought": "optional"}, ["Hello<turn|>", f"{THOUGHT}Hello<eos>"],
         [f"{CALL}<|tool_response>", "<|channel>thinking<channel|>Hello<turn|>"]),
        (AUTO, {"schema": WEATHER.parameters}, [f"{DATA}<turn|>", f"{CALL}<|tool_response>"],
         ["Hello<turn|>", f"{DATA}{CALL}<|tool_response>"]),
        (NONE, {"schema": WEATHER.parameters}, [f"{DATA}<turn|>"], [f"{CALL}<|tool_response>"]),
    ],
)  # fmt: skip
def test_a_tool_choice_holds(
    tiny: ConstraintCompiler,
    spelt: Spelt,
    tool_choice: ToolChoice,
    options: dict[str, Any],
    inside: list[str],
    outside: list[str],
) -> None:
    constraint = tiny.tools([WEATHER, NOW], tool_choice, **options)
    assert [text for text in inside if not takes(constraint, spelt(text))] == []
    assert [text for text in outside if takes(constraint, spelt(text))] == []


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ('{City:<|"|>a"\n{}:,<|"|>}', True),
        ('{City:<|"|><|"|>,days:-1}', True),
        ('{days:1,City:<|"|>a<|"|>}', False),  # sorted without regard to case
        ("{City:Bonn}", False),
        ('{City: <|"|>a<|"|>}', False),
        ('{City:<|"|>a<|"|>, days:1}', False),
        ('{City:<|"|>a<|"|>,days:<|"|>1<|"|>}', False),
        ('{"City":<|"|>a<|"|>}', False),
        ('{City:<|"|>a<|"|>', False),
    ],
)
def test_arguments_are_written_as_the_model_learnt_them(
    tiny: ConstraintCompiler, spelt: Spelt, arguments: str, fits: bool
) -> None:
    constraint = tiny.tools([WEATHER], REQUIRED)
    ids = spelt(f"<|tool_call>call:get_weather{arguments}<tool_call|><|tool_response>")
    assert takes(constraint, ids) == fits


@pytest.mark.parametrize(
    ("thought", "inside", "outside"),
    [
        ("never", ["3<turn|>"], [f"{THOUGHT}3<turn|>", "<|channel>thought\n<channel|>3<turn|>"]),
        ("empty", ["3<eos>", "<|channel>thought\n<channel|>3<turn|>"], [f"{THOUGHT}3<turn|>"]),
        ("optional", ["3<turn|>", f"{THOUGHT}3<turn|>"], [f"3{THOUGHT}<turn|>"]),
        ("required", [f"{THOUGHT}3<turn|>"], ["3<turn|>"]),
        ("open", ["so 3.\n<channel|>3<turn|>"], ["3<turn|>", f"{THOUGHT}3<turn|>"]),
    ],
)
def test_a_thought_comes_first(
    tiny: ConstraintCompiler, spelt: Spelt, thought: Any, inside: list[str], outside: list[str]
) -> None:
    constraint = tiny.schema({"type": "integer"}, thought=thought)
    assert [text for text in inside if not takes(constraint, spelt(text))] == []
    assert [text for text in outside if takes(constraint, spelt(text))] == []


@pytest.mark.parametrize("thought", ["optional", "required"])
def test_thoughts_and_data_are_told_apart(
    judges: Any, tiny: ConstraintCompiler, protocol: Gemma4Protocol, thought: Any
) -> None:
    schema = judges.samples.record(a={"type": "string"}, b={"type": "boolean"})
    walker = judges.Walker(tiny.schema(schema, thought=thought).automaton)
    draw = random.Random(5)
    for _ in range(20):
        events = read(protocol, [], walker.walk(draw, 80), thinking=True)
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert schema_errors(schema, json.loads(text)) == []
        assert all(isinstance(event, TextDelta | ReasoningDelta) for event in events)


def test_free_words_are_the_chat_protocols(tiny: ConstraintCompiler, spelt: Spelt) -> None:
    constraint = tiny.text()
    assert takes(constraint, spelt("Any {words} <b>é</b><turn|><pad><pad>"))
    for text in ("a<|tool_call>", "a<turn|>b", "<|image|><turn|>", "a", "<bos><turn|>"):
        assert not takes(constraint, spelt(text))


def test_choices_are_words_and_patterns_match_wholly(
    tiny: ConstraintCompiler, spelt: Spelt
) -> None:
    constraint = tiny.choices(["yes", "no", "not sure"])
    for text, fits in (("yes", True), ("no", True), ("not", False), ("yesno", False), ("", False)):
        assert takes(constraint, spelt(f"{text}<turn|>")) == fits
    assert takes(tiny.regex(r"\d{2}-\w+"), spelt("12-ab<turn|>"))
    assert not takes(tiny.regex(r"\d{2}-\w+"), spelt("12-ab!<turn|>"))


@pytest.mark.parametrize("choices", [[], [""], ["a", ""], ["a", 3], ""])
def test_choices_are_words_that_are_not_empty(tiny: ConstraintCompiler, choices: Any) -> None:
    with pytest.raises(ConstraintError, match="choices must be texts"):
        tiny.choices(choices)


def test_two_equal_choices_are_a_mistake(tiny: ConstraintCompiler) -> None:
    with pytest.raises(ConstraintError, match="the choice 'a' is there twice"):
        tiny.choices(["a", "b", "a"])


@pytest.mark.parametrize(
    ("tools", "tool_choice", "message"),
    [
        ([], REQUIRED, "needs a tool at all, the request has none"),
        ([], AUTO, "needs a tool at all"),
        ([NOW], ToolChoice.named("then"), "needs a tool named 'then', the request has 'now'"),
        ([NOW, NOW], AUTO, "two tools have one name"),
        ([Tool("a{b")], AUTO, "the tool name 'a{b' cannot be written in a call"),
    ],
)
def test_tools_that_cannot_be_called_are_refused(
    tiny: ConstraintCompiler, tools: list[Tool], tool_choice: ToolChoice, message: str
) -> None:
    with pytest.raises(ConstraintError, match=message):
        tiny.tools(tools, tool_choice)


def test_a_tools_schema_is_refused_by_its_place(tiny: ConstraintCompiler) -> None:
    tool = Tool("t", "", {"type": "object", "properties": {"a": {"not": {}}}})
    with pytest.raises(UnsupportedSchemaError) as caught:
        tiny.tools([NOW, tool], REQUIRED)
    assert caught.value.pointer == "t#/properties/a/not"
    constraint = tiny.tools([NOW, tool], REQUIRED, on_unsupported="validate")
    assert constraint.left_out == ("t#/properties/a/not",)


def test_thoughts_of_another_kind_do_not_exist(tiny: ConstraintCompiler) -> None:
    with pytest.raises(SettingError, match="there are never, empty, optional, required, open"):
        tiny.text(thought="deep")  # type: ignore[arg-type]
