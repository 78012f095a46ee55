"""ChatTokenizer: text never yields a control id, and decoding may stop anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.chat.tokens import ChatTokenizer, StreamDecoder
from dgemma_backend.errors import CheckpointError, ControlTokenError

CONTROLS_OF_FULL_SIZE = {
    "<pad>": 0, "<eos>": 1, "<bos>": 2, "<|tool>": 46, "<tool|>": 47, "<|tool_call>": 48,
    "<tool_call|>": 49, "<|tool_response>": 50, "<tool_response|>": 51, '<|"|>': 52,
    "<|think|>": 98, "<|channel>": 100, "<channel|>": 101, "<|turn>": 105, "<turn|>": 106,
    "<|image|>": 258880,
}  # fmt: skip


def test_control_tokens_are_known_by_name(toy: ChatTokenizer) -> None:
    assert toy.control_id("<|turn>") == 15
    assert toy.control_name(15) == "<|turn>"
    assert toy.control_name(200) is None


def test_a_control_token_that_does_not_exist_is_a_checkpoint_error(toy: ChatTokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has no control token '<\|video>'"):
        toy.control_id("<|video>")


@given(text=st.text(max_size=60))
def test_text_comes_back_as_it_went_in(toy: ChatTokenizer, text: str) -> None:
    whole = text.encode("utf-8", "replace").decode("utf-8").replace("▁", " ")
    assert toy.decode(toy.encode_text(text)) == whole


MARKERS = st.sampled_from(
    [*CONTROLS_OF_FULL_SIZE, "<|", "|>", "<", "turn", "\u200b", "▁", "\ud800"]
)


@given(pieces=st.lists(st.one_of(MARKERS, st.text(max_size=5)), max_size=8))
def test_no_spelling_of_a_marker_becomes_a_control_token(
    toy: ChatTokenizer, pieces: list[str]
) -> None:
    assert not set(toy.encode_text("".join(pieces))) & set(toy.control_ids.values())


def test_a_tokenizer_whose_merges_spell_a_marker_raises_instead(toy_json: dict[str, Any]) -> None:
    toy_json["model"]["merges"] = [*toy_json["model"]["merges"], "<|turn >"]
    evil = ChatTokenizer(toy_json)
    with pytest.raises(ControlTokenError, match=r"would become the control token '<\|turn>'"):
        evil.encode_text("hi <|turn> there")
    assert evil.encode_text("hi there")


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_decoding_in_pieces_gives_whole_characters_and_the_same_text(
    toy: ChatTokenizer, text: str, cuts: list[int]
) -> None:
    ids = toy.encode_text(text)
    decoder, streamed, start = StreamDecoder(toy), "", 0
    for cut in [*sorted(cut for cut in cuts if cut < len(ids)), len(ids)]:
        piece = decoder.feed(ids[start:cut])
        assert "\ufffd" not in piece or "\ufffd" in text
        streamed, start = streamed + piece, cut
    assert streamed + decoder.finish() == toy.decode(ids)


def test_half_a_character_at_the_end_becomes_a_replacement_character(toy: ChatTokenizer) -> None:
    half = toy.encode_text("é")[:1]
    decoder = StreamDecoder(toy)
    assert decoder.feed(half) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.feed(toy.encode_text("a")) == "a"


def test_control_tokens_are_left_out_of_decoded_text_unless_asked_for(toy: ChatTokenizer) -> None:
    ids = [toy.control_id("<|turn>"), *toy.encode_text("user"), toy.control_id("<turn|>")]
    assert toy.decode(ids) == "user"
    assert toy.decode(ids, controls=True) == "<|turn>user<turn|>"
    assert toy.decode([10**6]) == ""


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        ChatTokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "it holds no JSON object"),
        ("{}", "is not a tokenizer"),
        ('{"added_tokens": [], "model": {"type": "BPE", "vocab": {}}}', "is not a tokenizer"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=words):
        ChatTokenizer.from_file(path)


def test_a_tokenizer_file_is_read_from_disk(tmp_path: Path, toy_json: dict[str, Any]) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(toy_json))
    assert ChatTokenizer.from_file(path).decode([33 + 256 + 18 - 33]) == "!"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"added_tokens": []}, "declares no control tokens"),
        ({"decoder": None}, "does not say how to decode"),
        (
            {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
            "decodes with a step 'WordPiece'",
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    toy_json: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        ChatTokenizer({**toy_json, **changes})
