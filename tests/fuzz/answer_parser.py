"""Fuzzes the answer parser with atheris: any ids, cut anywhere, never an exception.

Run by hand; atheris is not among the development tools:

    pip install atheris tokenizers
    PYTHONPATH=src python tests/fuzz/answer_parser.py -max_total_time=60

Each input is also fed one id at a time and must give the same events, a call must come from a
control token, and time is bounded. Figure of record (CPython 3.11, atheris 3.0.0, one core of a
busy two-core machine): 64,315 inputs of up to 400 bytes in 121 s, no finding.
"""

import importlib
import sys
import time
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["dgemma_backend.chat"]):
    from dgemma_backend.chat.protocol import Gemma4Protocol
    from dgemma_backend.chat.tokens import ChatTokenizer
    from dgemma_backend.events import ParsedEvent, ReasoningDelta, TextDelta, ToolCallDone
    from dgemma_backend.messages import Tool
    from dgemma_backend.tiny import CHECKPOINT

PROTOCOL = Gemma4Protocol(ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json"))
OPENER = PROTOCOL.tokenizer.control_id("<|tool_call>")
PIECES = [
    *([each] for each in PROTOCOL.tokenizer.control_ids.values()),
    *(
        PROTOCOL.tokenizer.encode_text(text)
        for text in (
            "call:", "book", "{", "}", "(", ")", "[", "]", ",", ":", "=", '"', "\\", "seats",
            "notes", "when", "4", "1e9", "true", "null", "thought\n", "thought", "\n", " ", "é",
            "日", "[[[[[[[[", "{a:{a:{a:{a:",
        )
    ),
]  # fmt: skip
TREE: dict[str, Any] = {"type": "object", "properties": {"t": {"$ref": "#"}, "l": {"items": {}}}}
TOOLS = [
    Tool("tree", "", TREE),
    Tool(
        "book",
        "",
        {
            "type": "object",
            "properties": {
                "seats": {"type": "integer"},
                "notes": {"type": "array", "items": {"anyOf": [{"type": "number"}, {}]}},
                "when": {"type": ["object", "null"], "additionalProperties": {"type": "boolean"}},
            },
        },
    ),
]


def ids_of(data: bytes) -> list[int]:
    """Bytes below the number of pieces stand for those, others for ordinary tokens."""
    ids: list[int] = []
    for byte in data:
        ids += PIECES[byte] if byte < len(PIECES) else [24 + byte]
    return ids


def merged(events: list[ParsedEvent]) -> list[object]:
    """The events with neighbouring text joined."""
    found: list[object] = []
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta) and found:
            last = found[-1]
            if isinstance(last, TextDelta | ReasoningDelta) and type(last) is type(event):
                found[-1] = type(event)(last.text + event.text)
                continue
        found.append(event)
    return found


def check(data: bytes) -> None:
    """One input; raises AssertionError, or whatever the parser raises."""
    thinking = bool(data) and data[0] % 2 == 1
    ids = ids_of(data[1:])
    begun = time.perf_counter()
    whole = PROTOCOL.new_parser(TOOLS, seed=0, position=0, thinking=thinking)
    events = whole.feed(ids) + whole.finish()
    assert time.perf_counter() - begun < 1 + 1e-4 * len(ids), "too slow"
    single = PROTOCOL.new_parser(TOOLS, seed=0, position=0, thinking=thinking)
    pieces = [event for token_id in ids for event in single.feed([token_id])] + single.finish()
    assert merged(pieces) == merged(events), "cutting the ids changes the events"
    calls = sum(isinstance(event, ToolCallDone) for event in events)
    assert calls <= ids.count(OPENER), "a call came from nowhere"


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
