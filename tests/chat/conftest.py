"""A toy tokenizer with ids of its own, and the full-size one where it is at hand."""

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.tiny import CHECKPOINT

FULL_SIZE = Path(__file__).parents[3] / "shared/reference/data/gemma4_tokenizer.json.xz"

CONTROLS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|tool>", "<tool|>", "<|tool_call>",
    "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>', "<|think|>", "<|channel>",
    "<channel|>", "<|turn>", "<turn|>", "<|image|>",
]  # fmt: skip
MERGES = [
    "u s", "us e", "use r", "m o", "mo d", "mod e", "mode l", "c a", "ca l", "cal l", "\n \n",
    "▁ t", "▁t h", "▁th e", "< |", "| >", "t u", "tu r", "tur n", "<| turn",
]  # fmt: skip


def toy_description() -> dict[str, Any]:
    """A tokenizer.json: 18 controls, 256 bytes, printable ASCII and a few merges."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    pieces += ["".join(merge.split(" ")) for merge in MERGES]
    vocab = {piece: place for place, piece in enumerate([*CONTROLS, *pieces])}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocab[name], "content": name, "special": True, **flags} for name in CONTROLS
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": MERGES,
        },
    }


@pytest.fixture
def toy_json() -> dict[str, Any]:
    return toy_description()


@pytest.fixture(scope="session")
def toy() -> ChatTokenizer:
    return ChatTokenizer(toy_description())


@pytest.fixture(scope="session")
def toy_protocol(toy: ChatTokenizer) -> Gemma4Protocol:
    return Gemma4Protocol(toy)


@pytest.fixture(scope="session")
def tiny_protocol() -> Gemma4Protocol:
    return Gemma4Protocol(ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json"))


@pytest.fixture(scope="session")
def full_json() -> dict[str, Any]:
    if not FULL_SIZE.exists():
        pytest.skip("the full-size tokenizer is not beside this checkout")
    description = json.loads(lzma.decompress(FULL_SIZE.read_bytes()))
    assert isinstance(description, dict)
    return description


@pytest.fixture(scope="session")
def full(full_json: dict[str, Any]) -> ChatTokenizer:
    return ChatTokenizer(full_json, where=FULL_SIZE.name)


@pytest.fixture(scope="session")
def full_protocol(full: ChatTokenizer) -> Gemma4Protocol:
    return Gemma4Protocol(full)


@pytest.fixture(scope="session")
def spelt(toy: ChatTokenizer) -> Callable[..., list[int]]:
    """Ids of pieces: a control token where the piece is the name of one, text otherwise."""

    def ids(*pieces: str) -> list[int]:
        found: list[int] = []
        for piece in pieces:
            if piece in toy.control_ids:
                found.append(toy.control_ids[piece])
            else:
                found.extend(toy.encode_text(piece))
        return found

    return ids
