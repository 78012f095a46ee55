"""A stop string ends the text wherever it is cut, and is never part of it."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.chat.parser import AnswerParser
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.events import TextDelta
from dgemma_backend.runtime.answer import Answer
from dgemma_backend.runtime.stop_strings import StopStrings
from dgemma_backend.tiny import CHECKPOINT

ALPHABET = st.text(alphabet="abcé🙂 ", max_size=40)
STOPS = st.lists(st.text(alphabet="abcé🙂 ", min_size=1, max_size=4), max_size=4)


def ended_by_hand(text: str, stops: list[str]) -> tuple[str, bool]:
    """Letter by letter: the first moment at which the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: end - len(max(hits, key=len))], True
    return text, False


@given(text=ALPHABET, stops=STOPS, cuts=st.lists(st.integers(0, 40), max_size=6))
def test_the_pieces_passed_on_are_the_text_before_the_first_complete_stop(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    passing = StopStrings(tuple(stops))
    marks = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    passed = "".join(passing.feed(text[a:b]) for a, b in itertools.pairwise(marks))
    assert (passed + passing.finish(), passing.found is not None) == ended_by_hand(text, stops)


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_known() -> None:
    passing = StopStrings(("END",))
    assert passing.feed("one E") == "one "
    assert passing.feed("N") == ""
    assert passing.feed("T") == "ENT"
    assert passing.feed("END and more") == ""
    assert passing.feed("ignored") == ""
    assert passing.finish() == ""


CASES = 20_000
PIECES = ("a", "b", "ab", "é", "e\u0301", "\u0301", "🙂", "👩\u200d🚀", "語", " ", "\n", "\ufffd")
SCRAPS = (b"\xff", b"\xc3", b"\xe8\xaa", b"\xf0\x9f\x99", b"\x80", b"\xed\xa0\x80", b"\xf0\x9f")
LEADS_ON = (
    b"\x80",
    b"\x90",
    b"\xa0",
    b"\x80\x80",
    b"\x90\x80",
    b"\xa0\x80",
    b"\x80\x80\x80",
    b"\x90\x80\x80",
)


class Case:
    """An answer's bytes as tokens, cut into canvases, and its stop strings."""

    def __init__(self, seed: int, tokenizer: ChatTokenizer) -> None:
        rng = Random(seed)
        self.ids: list[int] = []
        text = rng.choices(PIECES, k=rng.randint(0, 12))
        for piece in text:
            if rng.random() < 0.5:
                self.ids += tokenizer.encode_text(piece)
            else:
                self.ids += byte_ids(tokenizer, piece.encode())
            if rng.random() < 0.05:
                self.ids += byte_ids(tokenizer, rng.choice(SCRAPS))
        if rng.random() < 0.2:
            self.ids += byte_ids(tokenizer, rng.choice(SCRAPS))
        self.stops = tuple({"".join(one_of(rng, text)) for _ in range(rng.randint(0, 3))} - {""})
        self.max_tokens = rng.randint(1, 40)
        marks = sorted(rng.choices(range(len(self.ids) + 1), k=rng.randint(0, 5)))
        self.cuts = [0, *marks, len(self.ids)]


def one_of(rng: Random, text: list[str]) -> list[str]:
    """A piece of the text itself, or some other pieces, or both."""
    begin = rng.randint(0, len(text))
    there = text[begin : begin + rng.randint(0, 3)]
    return there + rng.choices(PIECES, k=rng.choice((0, 0, 1, 2)))


def byte_ids(tokenizer: ChatTokenizer, data: bytes) -> list[int]:
    ids = [tokenizer._plain.token_to_id(f"<0x{byte:02X}>") for byte in data]
    assert None not in ids
    return [each for each in ids if each is not None]


def complete_part(data: bytes) -> bytes:
    """`data` without the beginning of a character that more bytes could complete.

    Python's decoder waits for all three bytes of a surrogate too, before it refuses them.
    """
    if data[-2:-1] == b"\xed" and data[-1:] >= b"\xa0" and data[-1:] < b"\xc0":
        return data[:-2]
    for size in (3, 2, 1):
        tail = data[-size:]
        if len(tail) == size and any(is_one_character(tail + more) for more in LEADS_ON):
            return data[:-size]
    return data


def is_one_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def safe_part(text: str, stops: tuple[str, ...]) -> str:
    """`text` without its longest end that begins a stop string."""
    for begin in range(len(text)):
        if any(stop.startswith(text[begin:]) for stop in stops):
            return text[:begin]
    return text


def passed_on(events: object) -> str:
    assert isinstance(events, list)
    assert all(isinstance(each, TextDelta) and each.text for each in events)
    return "".join(each.text for each in events)


@pytest.mark.slow
def test_no_more_is_held_back_than_half_a_character_and_what_may_begin_a_stop() -> None:
    tokenizer = ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json")
    stopped = held = 0
    for seed in range(CASES):
        case = Case(seed, tokenizer)
        answer = Answer(
            AnswerParser(tokenizer, seed=0, position=0), case.stops, (), case.max_tokens
        )
        passed, read = "", b""
        for begin, end in itertools.pairwise(case.cuts):
            if answer.ended is not None:
                break
            kept, events = answer.take(case.ids[begin:end])
            assert kept == case.ids[begin:end][: len(kept)]
            read += b"".join(map(tokenizer.token_bytes, kept))
            passed += passed_on(events)
            whole = complete_part(read).decode("utf-8", "replace")
            text, over = ended_by_hand(whole, list(case.stops))
            assert passed == (text if over else safe_part(text, case.stops)), f"case {seed}"
            assert (answer.ended == "stop") == over, f"case {seed}"
            held += len(text) - len(passed)
        passed += passed_on(answer.finish())
        text, over = ended_by_hand(read.decode("utf-8", "replace"), list(case.stops))
        assert passed == answer.text == text, f"case {seed}"
        assert not any(stop in passed for stop in case.stops), f"case {seed}"
        stopped += over
    assert stopped > CASES / 5
    assert held > CASES / 10
