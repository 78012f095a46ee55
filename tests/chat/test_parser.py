"""AnswerParser: text, thoughts and calls out of committed ids, whatever the ids are."""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.events import (
    InvalidToolCallDone,
    ParsedEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from dgemma_backend.messages import Message, Tool, ToolCall

Spelt = Callable[..., list[int]]
TIMES = int(os.environ.get("DGEMMA_CHAT_TIMES", "1"))
Q = '<|"|>'
TOOLS = [
    Tool(
        "book",
        "Book a table.",
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "seats": {"type": "integer"},
                "tip": {"type": "number"},
                "inside": {"type": "boolean"},
                "notes": {"type": "array", "items": {"type": "string"}},
                "when": {"type": "object", "properties": {"hour": {"type": "integer"}}},
            },
        },
    )
]


def parsed(
    protocol: Gemma4Protocol, ids: list[int], cuts: tuple[int, ...] = (), **options: Any
) -> list[ParsedEvent]:
    parser = protocol.new_parser(TOOLS, seed=7, position=11, **options)
    events: list[ParsedEvent] = []
    start = 0
    for cut in (*sorted(cuts), len(ids)):
        events += parser.feed(ids[start:cut])
        start = max(start, cut)
    return events + parser.finish()


def summary(events: list[ParsedEvent]) -> list[tuple[str, Any]]:
    """Kind and content of each event, neighbouring text joined, ids left out."""
    found: list[tuple[str, Any]] = []
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta):
            kind = "text" if isinstance(event, TextDelta) else "reasoning"
            if found and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + event.text)
            else:
                found.append((kind, event.text))
        elif isinstance(event, ToolCallDone):
            found.append(("call", (event.call.name, dict(event.call.arguments))))
        else:
            found.append(("invalid", (event.call.name, event.call.raw)))
    return found


def call_of(protocol: Gemma4Protocol, ids: list[int]) -> Any:
    (found,) = summary(parsed(protocol, ids))
    assert found[0] == "call", found
    return found[1]


@pytest.mark.parametrize(
    ("pieces", "thinking", "expected"),
    [
        (["Hi there", "<turn|>", "junk"], False, [("text", "Hi there")]),
        (["<turn|>"], False, []),
        (["<|channel>", "thought\n", "<channel|>", "Hi", "<turn|>"], False, [("text", "Hi")]),
        (["<|channel>", "thought", "<channel|>", "Hi", "<turn|>"], False, [("text", "Hi")]),
        (["<|channel>", "thought\nHi", "<turn|>"], False, [("text", "Hi")]),
        (["<|channel>", "thought\nwell", "<turn|>"], True, [("reasoning", "well")]),
        (
            ["<|channel>", "thought\nwell\n", "<channel|>", "Hi", "<turn|>"],
            True,
            [("reasoning", "well"), ("text", "Hi")],
        ),
        (
            ["thought\nwell\n", "<channel|>", "Hi", "<turn|>"],
            True,
            [("reasoning", "well"), ("text", "Hi")],
        ),
        (["thought\nwell", "<turn|>"], False, [("text", "thought\nwell")]),
        (["thoughtful", "<turn|>"], True, [("text", "thoughtful")]),
        (["thou", "<turn|>"], True, [("text", "thou")]),
        (
            ["<|channel>", "thought\na", "<|channel>", "thought\nb\n", "<channel|>", "c"],
            True,
            [("reasoning", "ab"), ("text", "c")],
        ),
        (["<channel|>", "Hi", "<channel|>", "<turn|>"], False, [("text", "Hi")]),
        (
            ["<|channel>", "thought\nwell", "<|tool_call>", "call:book{}", "<tool_call|>"],
            False,
            [("reasoning", "well"), ("call", ("book", {}))],
        ),
        (["a", "<|image|>", "<bos>", "<pad>", "b"], False, [("text", "ab")]),
    ],
)
def test_thoughts_and_text_are_told_apart(
    toy_protocol: Gemma4Protocol,
    spelt: Spelt,
    pieces: list[str],
    thinking: bool,
    expected: list[tuple[str, Any]],
) -> None:
    assert summary(parsed(toy_protocol, spelt(*pieces), thinking=thinking)) == expected


def test_an_answer_begins_inside_the_thought_its_prompt_left_open(
    toy_protocol: Gemma4Protocol, spelt: Spelt
) -> None:
    prompt = toy_protocol.prompt_ids(
        [
            Message.user("hi"),
            Message.assistant(tool_calls=[ToolCall("c", "book", {})]),
            Message.tool("done", tool_call_id="c"),
        ],
        thinking=True,
    )
    ids = spelt("so it is done\n", "<channel|>", "Done.", "<turn|>")
    events = parsed(toy_protocol, ids, thinking=True, prompt=prompt)
    assert summary(events) == [("reasoning", "so it is done"), ("text", "Done.")]


def test_reasoning_tokens_are_counted_with_their_markers(
    toy_protocol: Gemma4Protocol, spelt: Spelt
) -> None:
    thought = spelt("<|channel>", "thought\nwell\n", "<channel|>")
    parser = toy_protocol.new_parser(seed=0, position=0, thinking=True)
    parser.feed(thought + spelt("Hello", "<turn|>"))
    assert parser.reasoning_tokens == len(thought)


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        (["call:book{}", "<tool_call|>"], {}),
        (["call:book{name:", Q, "Ana {x}, y", Q, ",seats:4}", "<tool_call|>"],
         {"name": "Ana {x}, y", "seats": 4}),
        ([":book{seats:4}", "<tool_call|>"], {"seats": 4}),
        (["book{seats:4}", "<tool_call|>"], {"seats": 4}),
        (["call:book(seats=4, inside=true)", "<tool_call|>"], {"seats": 4, "inside": True}),
        (["call:book({seats:4})", "<tool_call|>"], {"seats": 4}),
        (['call:book{"name": "a\\nb", "seats": 4}', "<tool_call|>"], {"name": "a\nb", "seats": 4}),
        (["call:book{", Q, "seats", Q, ":4}", "<tool_call|>"], {"seats": 4}),
        (["call:book{seats:4}", "<turn|>"], {"seats": 4}),
        (["call:book{seats:4}", "<|tool_response>"], {"seats": 4}),
        (["call:book{seats:4", "<tool_call|>"], {"seats": 4}),
        (["call:book{name:", Q, "Ana}", "<tool_call|>"], {"name": "Ana"}),
        (["call:book{seats:4}}", "<tool_call|>"], {"seats": 4}),
        (["call:book{seats:", Q, "4", Q, "}", "<tool_call|>"], {"seats": 4}),
        (["call:book{seats:4.0,tip:2}", "<tool_call|>"], {"seats": 4, "tip": 2}),
        (["call:book{tip:1.5e1}", "<tool_call|>"], {"tip": 15.0}),
        (["call:book{name:12}", "<tool_call|>"], {"name": "12"}),
        (["call:book{name:null}", "<tool_call|>"], {"name": None}),
        (["call:book{seats:four}", "<tool_call|>"], {"seats": "four"}),
        (["call:book{notes:[a, ", Q, "b,c", Q, ", 3]}", "<tool_call|>"],
         {"notes": ["a", "b,c", "3"]}),
        (["call:book{notes:", Q, '["a"]', Q, "}", "<tool_call|>"], {"notes": ["a"]}),
        (["call:book{when:{hour:", Q, "7", Q, ",note:x}}", "<tool_call|>"],
         {"when": {"hour": 7, "note": "x"}}),
        (["call:book{extra:1,more:true,words:yes,none:null,n:NaN}", "<tool_call|>"],
         {"extra": 1, "more": True, "words": "yes", "none": None, "n": "NaN"}),
        (["call:book{seats: 4 ,\n inside : False }", "<tool_call|>"],
         {"seats": 4, "inside": False}),
        (["call:book{seats:" + "9" * 5000 + "}", "<tool_call|>"], {"seats": "9" * 5000}),
    ],
)  # fmt: skip
def test_calls_are_read_even_when_the_model_slips(
    toy_protocol: Gemma4Protocol, spelt: Spelt, pieces: list[str], arguments: dict[str, Any]
) -> None:
    assert call_of(toy_protocol, spelt("<|tool_call>", *pieces)) == ("book", arguments)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([], "names no tool"),
        (["call:{}", "<tool_call|>"], "names no tool"),
        (["call:book", "<tool_call|>"], "has no arguments"),
        (["call:I would like {}", "<tool_call|>"], "is not the name of a tool"),
        (["call:book{name:", Q, "Ana}"], "cut off inside a string"),
        (["call:book{seats:4"], "cut off inside a value"),
        (["call:book{notes:[", Q, "a", Q], "cut off inside a list"),
        (["call:book{name:Ana, Ben}", "<tool_call|>"], "expected a name and ':'"),
        (["call:book{name:}", "<tool_call|>"], "a value is missing"),
        (["call:book{seats:4} and more", "<tool_call|>"], "goes on after its arguments"),
        (['call:book{name:"Ana}', "<tool_call|>"], "has no end"),
        (['call:book{name:"\\x"}', "<tool_call|>"], "cannot be read"),
        (["call:book" + "{a:" * 100, "<tool_call|>"], "nested deeper than 64"),
        (["call:book{a:" + "[" * 100, "<tool_call|>"], "nested deeper than 64"),
        (["call:book{", "<|image|>", "}", "<tool_call|>"], r"the control token <|image|>"),
    ],
)
def test_what_cannot_be_read_is_an_invalid_call_with_its_text(
    toy_protocol: Gemma4Protocol, spelt: Spelt, pieces: list[str], error: str
) -> None:
    (event,) = parsed(toy_protocol, spelt("<|tool_call>", *pieces))
    assert isinstance(event, InvalidToolCallDone)
    assert error in event.call.error
    spoken = [piece for piece in pieces if piece not in ("<tool_call|>", "<|image|>")]
    assert event.call.raw == "".join(spoken)


def test_several_calls_and_the_text_around_them_keep_their_order(
    toy_protocol: Gemma4Protocol, spelt: Spelt
) -> None:
    one = ["<|tool_call>", "call:book{seats:1}", "<tool_call|>"]
    two = ["<|tool_call>", "call:book{seats:2}"]
    ids = spelt("First.", *one, " \n", *two, *one, "\n then", "<turn|>")
    assert summary(parsed(toy_protocol, ids)) == [
        ("text", "First."),
        ("call", ("book", {"seats": 1})),
        ("call", ("book", {"seats": 2})),
        ("call", ("book", {"seats": 1})),
        ("text", "\n then"),
    ]


def test_call_ids_repeat_with_the_request_and_with_nothing_else(
    toy_protocol: Gemma4Protocol, spelt: Spelt
) -> None:
    ids = spelt("<|tool_call>", "call:book{}", "<tool_call|>") * 2

    def call_ids(seed: int, position: int, prompt: list[int]) -> list[str]:
        parser = toy_protocol.new_parser(seed=seed, position=position, prompt=prompt)
        return [e.call.id for e in parser.feed(ids) if isinstance(e, ToolCallDone)]

    first = call_ids(0, 5, [1, 2])
    assert first == call_ids(0, 5, [1, 2])
    others = [call_ids(1, 5, [1, 2]), call_ids(0, 6, [1, 2]), call_ids(0, 5, [1, 3]), first]
    found = [each for pair in others for each in pair]
    assert len(set(found)) == 8
    assert all(len(each) == 29 and each.startswith("call_") for each in found)


PIECES = [
    "<|tool_call>", "<tool_call|>", Q, "<|channel>", "<channel|>", "<turn|>", "<|tool_response>",
    "<pad>", "<|turn>", "<|image|>", "<eos>", "call:book{", "call:", "book", "{", "}", "(", ")",
    "[", "]", ",", ":", '"', "\\", "seats", "4", "true", "thought\n", "thought", "\n", " ",
    "é", "日",
]  # fmt: skip


@pytest.fixture(scope="module")
def pieces(spelt: Spelt) -> list[list[int]]:
    return [spelt(piece) for piece in PIECES]


CUTTINGS = 8
"""How often the ids of one example are cut anew; each is a case."""


@pytest.mark.slow
@settings(max_examples=20_000 * TIMES // CUTTINGS, deadline=None)
@given(data=st.binary(max_size=24))
def test_any_ids_parse_and_cutting_them_elsewhere_changes_nothing(
    toy_protocol: Gemma4Protocol, pieces: list[list[int]], data: bytes
) -> None:
    ids = [token_id for byte in data for token_id in pieces[byte % len(pieces)]]
    thinking = len(data) % 2 == 1
    whole = summary(parsed(toy_protocol, ids, thinking=thinking))
    rng = random.Random(data)
    cuttings = [tuple(range(len(ids)))]
    cuttings += [
        tuple(rng.choices(range(len(ids) + 1), k=rng.randrange(1, 6))) for _ in range(CUTTINGS - 1)
    ]
    for cuts in cuttings:
        assert summary(parsed(toy_protocol, ids, cuts, thinking=thinking)) == whole


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["thought\nwell\n", "<channel|>", "Hi", "<turn|>"],
         [("reasoning", "well"), ("text", "Hi")]),
        (["thought\nwell", "<|tool_call>", "call:book{}", "<tool_call|>"],
         [("reasoning", "well"), ("call", ("book", {}))]),
        (["thought\nwell\n"], [("text", "thought\nwell\n")]),
        (["thought\nwell", "<|channel>", "thought\nhm", "<channel|>", "Hi", "<turn|>"],
         [("text", "thought\nwell"), ("reasoning", "hm"), ("text", "Hi")]),
        (["thoughts", "<turn|>"], [("text", "thoughts")]),
    ],
)  # fmt: skip
def test_with_thinking_off_a_thought_without_its_opener_needs_something_to_close_it(
    toy_protocol: Gemma4Protocol, spelt: Spelt, pieces: list[str], expected: list[tuple[str, Any]]
) -> None:
    assert summary(parsed(toy_protocol, spelt(*pieces))) == expected


@pytest.mark.parametrize("thinking", [True, False])
def test_an_answer_cut_off_in_its_thought_says_so_and_has_no_text(
    toy_protocol: Gemma4Protocol, spelt: Spelt, thinking: bool
) -> None:
    parser = toy_protocol.new_parser(seed=0, position=0, thinking=thinking)
    events = parser.feed(spelt("<|channel>", "thought\nlet me"))
    assert parser.in_thought
    assert summary(events + parser.finish()) == [("reasoning", "let me")]
    assert parser.cut_in_thought
    over = toy_protocol.new_parser(seed=0, position=0, thinking=thinking)
    over.feed(spelt("<|channel>", "thought\nlet me", "<channel|>", "Hi"))
    over.finish()
    assert not over.cut_in_thought
    assert not over.in_thought


def test_a_thought_that_used_up_its_budget_can_be_ended(
    toy_protocol: Gemma4Protocol, spelt: Spelt
) -> None:
    parser = toy_protocol.new_parser(seed=0, position=0, thinking=True)
    events = parser.feed(spelt("<|channel>", "thought\non and on"))
    events += parser.feed(toy_protocol.end_of_thought_ids())
    assert not parser.in_thought
    events += parser.feed(spelt("Yes.", "<turn|>"))
    assert summary(events) == [("reasoning", "on and on"), ("text", "Yes.")]


@settings(max_examples=300)
@given(ids=st.lists(st.integers(-1, 500), max_size=80))
def test_any_numbers_at_all_are_parsed_without_an_error(
    toy_protocol: Gemma4Protocol, ids: list[int]
) -> None:
    parsed(toy_protocol, [max(0, each) for each in ids])


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda t: "▁" not in t
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | WORDS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(
    text=WORDS,
    reasoning=WORDS.filter(lambda t: bool(t.strip())),
    calls=st.lists(st.tuples(NAMES, st.dictionaries(NAMES, JSON, max_size=4)), max_size=3),
)
def test_what_an_answer_renders_to_parses_back_to_it(
    toy_protocol: Gemma4Protocol, text: str, reasoning: str, calls: list[tuple[str, Any]]
) -> None:
    message = Message.assistant(
        text, tool_calls=[ToolCall("c", *call) for call in calls], reasoning=reasoning
    )
    found = summary(parsed(toy_protocol, toy_protocol.answer_ids(message), thinking=True))
    spoken = [("text", text.strip())] if text.strip() else []
    assert found == [("reasoning", reasoning), *spoken, *(("call", call) for call in calls)]


def test_text_arrives_with_the_canvas_that_completes_it(
    toy: ChatTokenizer, toy_protocol: Gemma4Protocol
) -> None:
    parser = toy_protocol.new_parser(seed=0, position=0)
    assert parser.feed(toy.encode_text("Hello wo")) == [TextDelta("Hello wo")]
    first, *rest = toy.encode_text("é")
    assert parser.feed([first]) == []
    assert parser.feed(rest) == [TextDelta("é")]
    assert parser.finish() == []
