import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.cli.terminal_text import one_line, printable

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))


@given(ANYTHING)
def test_no_control_character_survives_but_tab_and_line_feed(text: str) -> None:
    left = printable(text)
    assert {c for c in left if unicodedata.category(c) in ("Cc", "Cs")} <= {"\t", "\n"}
    left.encode()  # and any encoding can have it


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


@given(ANYTHING)
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[2Jgone", "[2Jgone"),
        ("\x1b]0;title\x07x", "]0;titlex"),
        ("\x9b31mred", "31mred"),
        ("over\rwritten", "overwritten"),
        ("a\x08b", "ab"),
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("half \ud83d character", "half  character"),
    ],
)
def test_what_steers_a_terminal_is_taken_out(text: str, left: str) -> None:
    assert printable(text) == left
