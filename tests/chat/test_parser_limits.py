"""AnswerParser at its limits: forged calls, deep nesting, long answers."""

import os
import random
import time
from collections.abc import Callable

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.events import TextDelta, ToolCallDone
from dgemma_backend.messages import Tool

Spelt = Callable[..., list[int]]
TIMES = int(os.environ.get("DGEMMA_CHAT_TIMES", "1"))
Q = '<|"|>'
NOTES = {"type": "array", "items": {"type": "string"}}
TOOLS = [Tool("book", "Book a table.", {"type": "object", "properties": {"notes": NOTES}})]


@pytest.mark.slow
def test_text_that_spells_a_call_makes_none(
    tiny_protocol: Gemma4Protocol, full_protocol: Gemma4Protocol
) -> None:
    rng = random.Random(11)
    spelt = [
        "<|tool_call>",
        "<tool_call|>",
        "call:book{",
        "seats:4}",
        Q,
        "<|channel>",
        "<channel|>",
    ]
    spelt += ["thought\n", "<call>book{}", "call:book(a=1)", "<turn|>", "Never run ", "{}", "\n"]
    for protocol in (tiny_protocol, full_protocol):
        for _ in range(50_000 * TIMES):
            # a word in front: an answer that begins with the word thought is another matter
            text = "so " + "".join(rng.choices(spelt, k=rng.randrange(1, 4)))
            parser = protocol.new_parser(TOOLS, seed=0, position=0)
            events = parser.feed(protocol.tokenizer.encode_text(text)) + parser.finish()
            assert events == [TextDelta(text)]


@pytest.mark.parametrize("depth", [60, 64, 200, 900, 5000])
def test_lists_in_a_quoted_string_are_read_to_a_depth_and_kept_as_text_beyond(
    toy_protocol: Gemma4Protocol, spelt: Spelt, depth: int
) -> None:
    nested = "[" * depth + "]" * depth
    ids = spelt("<|tool_call>", "call:book{notes:", Q, nested, Q, "}", "<tool_call|>")
    (event,) = toy_protocol.new_parser(TOOLS, seed=0, position=0).feed(ids)
    assert isinstance(event, ToolCallDone)
    assert isinstance(event.call.arguments["notes"], list if depth <= 64 else str)


def test_a_schema_that_refers_to_itself_cannot_make_reading_go_round(
    toy_protocol: Gemma4Protocol, spelt: Spelt
) -> None:
    tree = Tool("tree", "", {"type": "object", "properties": {"t": {"$ref": "#/properties/t"}},
                             "allOf": 5})  # fmt: skip
    ids = spelt("<|tool_call>", "call:tree{t:" + "{t:" * 60 + "1" + "}" * 61, "<tool_call|>")
    (event,) = toy_protocol.new_parser([tree], seed=0, position=0).feed(ids)
    assert isinstance(event, ToolCallDone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "largest"),
    [
        (["word and another ", " \n"], 1_024_000),
        (
            ["<|tool_call>", "call:book{name:", Q, "some text {", Q, "}", "<tool_call|>", " \n"],
            1_024_000,
        ),
        (["<|tool_call>", "call:book{notes:[a,", "{b:"], 256_000),
        (["<|channel>", "thought\n", "and so on\n"], 256_000),
        ([Q, "<channel|>", "Zürich 日本 "], 256_000),
        (["thought\n", "[[{a: and "], 256_000),
    ],
)
def test_time_from_1_kb_to_1_mb_grows_no_faster_than_the_answer(
    tiny_protocol: Gemma4Protocol, pattern: list[str], largest: int
) -> None:
    tokenizer = tiny_protocol.tokenizer
    unit = [
        token_id
        for piece in pattern
        for token_id in (
            [tokenizer.control_ids[piece]]
            if piece in tokenizer.control_ids
            else tokenizer.encode_text(piece)
        )
    ]

    def seconds(size: int) -> float:
        ids = unit * (size // len("".join(pattern)))
        parser = tiny_protocol.new_parser(TOOLS, seed=0, position=0)
        start = time.process_time()
        parser.feed(ids)
        parser.finish()
        return time.process_time() - start

    before = seconds(1_000)
    size = 1_000
    while size < largest:
        size *= 2
        taken = seconds(size)
        for _ in range(8):  # others' work on this machine may have slowed one of the two
            if taken <= 2.3 * before:
                break
            before, taken = seconds(size // 2), seconds(size)
        assert taken <= 2.3 * before, f"{size} bytes took {taken / before:.2f} times half of them"
        before = taken
