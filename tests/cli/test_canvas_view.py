import io
import re

import pytest

from dgemma_backend.cli.canvas_view import CanvasView, caption
from dgemma_backend.events import CanvasCommitted, Draft, TextDelta


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def draft(text: str, step: int = 1, canvas: int = 0) -> Draft:
    return Draft(canvas, step, 48, text, tuple(range(256)), 9, 1.234)


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_draft_is_a_line_where_nothing_can_be_redrawn() -> None:
    out = io.StringIO()
    with CanvasView(out) as view:
        view.show(draft("The\nsky ", step=7))
        view.show(TextDelta("The sky"))
        view.show(CanvasCommitted(0, (1,), 7, True))
    assert out.getvalue() == (
        "canvas 1  step  7/48  accepted   9/256  1.23 nats | The sky\nThe sky\n"
    )


def test_a_draft_after_final_text_starts_a_line_of_its_own() -> None:
    out = io.StringIO()
    with CanvasView(out) as view:
        view.committed("The sky")
        view.draft(draft("is blue", canvas=1))
        view.committed(" is blue.\n")
    lines = out.getvalue().splitlines()
    assert lines[0] == "The sky"
    assert lines[1].startswith("canvas 2")
    assert lines[2] == " is blue."
    assert out.getvalue().endswith("\n")


def test_a_long_draft_is_cut_to_one_line() -> None:
    out = io.StringIO()
    with CanvasView(out) as view:
        view.draft(draft("word " * 500))
    assert len(out.getvalue().splitlines()) == 1
    assert len(out.getvalue()) <= 101


@pytest.mark.parametrize("live", [True, False])
def test_neither_drafts_nor_final_text_can_steer_the_terminal(live: bool) -> None:
    out = Terminal()
    with CanvasView(out, live=live) as view:
        view.draft(draft("\x1b]0;owned\x07\x1b[31m"))
        view.committed("\x1b]0;owned\x07 \x9b31m [bold]")
    assert "\x1b]" not in out.getvalue()
    assert "\x1b[31m" not in out.getvalue()
    assert "[bold]" in out.getvalue()  # nor is it markup


def test_a_terminal_gets_the_picture_redrawn_and_the_text_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with CanvasView(out) as view:
        view.draft(draft("Teh skq"))
        view.draft(draft("The sky", step=2))
        view.committed("The sky\nis ")
        view.draft(draft("bleu", canvas=1))
        view.committed("blue")
    plain = without_colour(out.getvalue())
    assert "\x1b[1A" in out.getvalue()  # the cursor went up to redraw
    assert "step  2/48" in plain
    assert plain.count("The sky\n") + plain.count("The sky\r\n") >= 1
    assert plain.rstrip().endswith("is blue")


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_redraw_gets_lines(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TERM", kind)
    out = Terminal()
    with CanvasView(out) as view:
        view.draft(draft("The sky"))
    assert out.getvalue() == f"{caption(draft(''))} | The sky\n"


def test_words_that_stayed_are_bright_and_others_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    with CanvasView(out) as view:
        view.draft(draft("one two"))
        before = len(out.getvalue())
        view.draft(draft("one three"))
        second = out.getvalue()[before:]
    assert re.search(r"\x1b\[1mone \x1b\[0m\x1b\[2;3mthree ", second)
