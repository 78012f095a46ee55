"""A stop string ends the text wherever it is cut, and is never part of it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.runtime.stop_strings import StopStrings

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
