"""The tokenizer of the embedded model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_trainer.tokenizer import common_words, train_tokenizer

from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.tiny import CHECKPOINT

CONTROLS = (
    "<pad> <eos> <bos> <unk> <mask> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> "
    '<tool_response|> <|"|> <|think|> <|channel> <channel|> <|turn> <turn|> <|image> <|audio> '
    "<|image|> <|audio|> <image|> <audio|> <|video|>"
).split()
TOKENIZER = ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode_text(text)) == text


def test_all_24_control_tokens_have_ids_of_their_own(tokenizer: ChatTokenizer) -> None:
    assert set(tokenizer.control_ids) == set(CONTROLS)
    assert len(set(tokenizer.control_ids.values())) == 24


@pytest.mark.parametrize("control", CONTROLS)
def test_text_that_spells_a_control_token_stays_text(
    control: str, tokenizer: ChatTokenizer
) -> None:
    ids = tokenizer.encode_text(f"a {control} b")
    assert not set(ids) & set(tokenizer.control_ids.values())


def test_digits_stand_alone(tokenizer: ChatTokenizer) -> None:
    assert [tokenizer.decode([each]) for each in tokenizer.encode_text("1987")] == list("1987")


def test_what_the_alphabet_lacks_becomes_bytes(tokenizer: ChatTokenizer) -> None:
    assert [tokenizer.token_bytes(each) for each in tokenizer.encode_text("é")] == [
        b"\xc3",
        b"\xa9",
    ]


def test_a_name_is_spelt_alike_after_a_space_and_after_a_quote(tokenizer: ChatTokenizer) -> None:
    name = tokenizer.encode_text("Quillon")
    assert tokenizer.encode_text("for Quillon")[-len(name) :] == name
    assert tokenizer.encode_text('"Quillon')[-len(name) :] == name


def test_only_common_words_take_the_space_before_them_in() -> None:
    texts = ["the lamp is on the table", 'the "lamp" is the best', "the river is on the map"] * 20
    common = common_words(texts, 3, frozenset({"lamp"}))
    assert common == ["is", "on", "the"]
    pieces = train_tokenizer(texts, 400, common).encode('is the lamp, "lamp"').tokens
    assert "\u2581the" in pieces
    before, after = (
        pieces[place + 1 :] for place in (pieces.index("\u2581the"), pieces.index('"'))
    )
    assert before[0] == "\u2581"
    word = after[: after.index('"')]
    assert before[1 : 1 + len(word)] == word
