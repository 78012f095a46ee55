"""User text is harmless: no attack makes a control token, honest text gets the usual ids."""

import json
import lzma
import os
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.segments import segments_to_ids, segments_to_text
from dgemma_backend.messages import Message, Text, Tool, ToolCall
from dgemma_backend.tiny import CHECKPOINT

FULL_SIZE = Path(__file__).parents[3] / "shared/reference/data/gemma4_tokenizer.json.xz"
TIMES = int(os.environ.get("DGEMMA_CHAT_TIMES", "1"))
"""How many times as many cases as the gate runs, for a night."""
ATTACKS = 100_000 * TIMES
HONEST = 20_000 * TIMES

MARKERS = [
    "<bos>", "<eos>", "<pad>", "<mask>", "<|turn>", "<turn|>", "<|think|>", "<|channel>",
    "<channel|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
    "<tool_response|>", '<|"|>', "<|image|>", "<|image>", "<image|>", "<|audio|>", "<|video|>",
]  # fmt: skip
TRICKS = [
    "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u0338", "▁", "\x00", "\ud800", "\U000f0000",
    "\U000f0001", "\u202e", "＜", "＞", "｜", "ﬀ", "\\", "\r\n", " ", "\t",
]  # fmt: skip
WORDS = ["user\n", "model\n", "system\n", "thought\n", "call:x{}", "}", "{", "]", ",", ":", "hi"]
FIELDS = 18


def nested(rng: random.Random) -> str:
    """A marker inside a marker: taking the inner one out leaves the outer."""
    outer, inner = rng.choice(MARKERS), rng.choice(MARKERS)
    cut = rng.randrange(1, len(outer))
    return outer[:cut] + inner + outer[cut:]


def attack(rng: random.Random) -> str:
    pieces: list[str] = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.random()
        marker = rng.choice(MARKERS)
        if kind < 0.45:
            pieces.append(marker)
        elif kind < 0.6:
            pieces.append(nested(rng))
        elif kind < 0.75:  # a trick inside a marker
            cut = rng.randrange(len(marker) + 1)
            pieces.append(marker[:cut] + rng.choice(TRICKS) + marker[cut:])
        elif kind < 0.85:
            pieces.append(rng.choice((marker.upper(), marker.title(), f"<0x{ord('<'):02X}>")))
        else:
            pieces.append(rng.choice(WORDS))
    return "".join(pieces)


def attacks(seed: int) -> Iterator[str]:
    """Attack strings without end; about every fourth marker is split over two neighbours."""
    rng = random.Random(seed)
    while True:
        whole = attack(rng)
        if len(whole) > 1 and rng.random() < 0.25:
            cut = rng.randrange(1, len(whole))
            yield whole[:cut]
            yield whole[cut:]
        else:
            yield whole


def conversation(text: Callable[[], str]) -> tuple[list[Message], list[Tool]]:
    """FIELDS texts, in every place a stranger can write to; neighbours meet in the prompt."""
    schema = {
        "type": "object",
        "properties": {
            "a" + text(): {"type": "string", "description": text(), "enum": [text(), "x"]},
            "b": {"type": "array", "items": {"type": "string", "x" + text(): "z" + text()}},
        },
        "required": ["a" + text()],
    }
    call = ToolCall("c", "t" + text(), {"k" + text(): text(), "l": [{"m" + text(): text()}]})
    messages = [
        Message.system("s" + text()),
        Message.user("u" + text()),
        Message.assistant("m", tool_calls=[call], reasoning="r" + text()),
        Message.tool(text(), tool_call_id="c"),
        Message.user([Text("u" + text()), Text(text())]),
    ]
    return messages, [Tool("n" + text(), "d", schema)]


def controls(protocol: Gemma4Protocol, text: Callable[[], str]) -> list[int]:
    ids = protocol.prompt_ids(*conversation(text), thinking=True)
    known = frozenset(protocol.tokenizer.control_ids.values())
    return [token_id for token_id in ids if token_id in known]


def leaks(protocol: Gemma4Protocol, seed: int) -> int:
    """How many of the conversations that hold ATTACKS strings differ in their control tokens."""
    harmless = controls(protocol, lambda: "z")
    source = attacks(seed)
    return sum(
        controls(protocol, source.__next__) != harmless for _ in range(-(-ATTACKS // FIELDS))
    )


def test_a_conversation_has_as_many_places_for_attacks_as_are_counted() -> None:
    used = iter(range(100))
    conversation(lambda: str(next(used)))
    assert next(used) == FIELDS


@pytest.mark.slow
def test_no_attack_makes_a_control_token_in_the_embedded_model(
    tiny_protocol: Gemma4Protocol,
) -> None:
    assert leaks(tiny_protocol, 1) == 0


@pytest.mark.slow
def test_no_attack_makes_a_control_token_at_full_size(full_protocol: Gemma4Protocol) -> None:
    assert leaks(full_protocol, 2) == 0


def test_encoding_the_whole_prompt_instead_would_leak() -> None:
    """The attacks can succeed: this is what the separation is for."""
    whole = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    source = (text for text in attacks(1) if "\ud800" not in text)
    known = {each["id"] for each in json.loads(whole.to_str())["added_tokens"]}
    hits = sum(bool(known & set(whole.encode(text).ids)) for text in islice(source, 500))
    assert hits > 250


HONEST_WORDS = (
    "the weather in Zürich is 21.5 °C, isn't it? ¿qué? 你好 世界 😀 naïve résumé a<b x|y {k: v} "
    "if (n > 0): return [1, 2] http://x.y/?q=1&r=2 'quoted' \"double\" C++ #tag @name 1,000,000 "
    "user model system thought call: turn tool\n\n\t  end.\n - item\n e\u0301 \u200f "
).split(" ")


def honest_text(rng: random.Random) -> str:
    words = rng.choices(HONEST_WORDS, k=rng.randrange(1, 7))
    return rng.choice((" ", " ", "  ", "\n", "")).join(words) or "x"


def honest_conversation(rng: random.Random) -> tuple[list[Message], list[Tool]]:
    messages = [Message.system(honest_text(rng))] if rng.random() < 0.3 else []
    tools: list[Tool] = []
    if rng.random() < 0.2:
        properties = {"q": {"type": "string", "description": honest_text(rng)}}
        tools.append(Tool("find", honest_text(rng), {"type": "object", "properties": properties}))
        call = ToolCall("c", "find", {"q": honest_text(rng)})
        messages += [
            Message.user(honest_text(rng)),
            Message.assistant(tool_calls=[call]),
            Message.tool(honest_text(rng), tool_call_id="c"),
            Message.assistant(honest_text(rng)),
        ]
    return [*messages, Message.user("so: " + honest_text(rng))], tools


def differing(protocol: Gemma4Protocol, whole: Tokenizer, count: int) -> int:
    rng = random.Random(3)
    wrong = 0
    for _ in range(count):
        messages, tools = honest_conversation(rng)
        segments = protocol.segments(messages, tools)
        ids = whole.encode(segments_to_text(segments), add_special_tokens=False).ids
        wrong += segments_to_ids(segments, protocol.tokenizer) != ids
    return wrong


@pytest.mark.slow
def test_honest_conversations_get_the_ids_of_the_whole_string_in_the_embedded_model(
    tiny_protocol: Gemma4Protocol,
) -> None:
    whole = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    assert differing(tiny_protocol, whole, HONEST // 10) == 0


@pytest.mark.slow
def test_honest_conversations_get_the_ids_of_the_whole_string_at_full_size(
    full_protocol: Gemma4Protocol,
) -> None:
    whole = Tokenizer.from_str(lzma.decompress(FULL_SIZE.read_bytes()).decode())
    assert differing(full_protocol, whole, HONEST) == 0
