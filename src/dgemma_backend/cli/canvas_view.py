"""Draws a canvas while it settles: live in a terminal, a line per step anywhere else.

with CanvasView() as view:
    for event in engine.stream("Who are you?", drafts=True):
        view.show(event)
"""

import os
import sys
from difflib import SequenceMatcher
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from dgemma_backend.cli.terminal_text import one_line, printable
from dgemma_backend.events import Draft, Event, TextDelta

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

LINE_WIDTH = 100


class CanvasView:
    """A picture of an answer: its final text, and under it the canvas at work.

    Final text is written once and never touched again. In a live picture words of the draft that
    the last step left alone are bright, the others dim.
    """

    def __init__(self, stream: TextIO | None = None, *, live: bool | None = None) -> None:
        """Draw to `stream` (standard output), `live` if it is a terminal that can."""
        self._stream = sys.stdout if stream is None else stream
        self._wants_live = _can_redraw(self._stream) if live is None else live
        self._live: Live | None = None
        self._line = ""  # final text after the last line feed
        self._words: list[str] = []

    def __enter__(self) -> Self:
        if self._wants_live:
            self._live = _new_live(self._stream)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(self._line))
            self._live.stop()
            self._live = None
        elif self._line:
            self._write("\n")
        self._line = ""

    def show(self, event: Event) -> None:
        """Draw what `event` changes; events that show nothing are passed over."""
        if isinstance(event, Draft):
            self.draft(event)
        elif isinstance(event, TextDelta):
            self.committed(event.text)

    def draft(self, draft: Draft) -> None:
        """Show the canvas after one step."""
        if self._live is not None:
            self._live.update(self._picture(draft), refresh=True)
        else:
            if self._line:
                self._write("\n")
                self._line = ""
            head = f"{caption(draft)} | "
            self._write(f"{head}{one_line(draft.text)[: LINE_WIDTH - len(head)]}\n")

    def committed(self, text: str) -> None:
        """Add final text."""
        text = printable(text)
        self._words = []
        if self._live is None:
            self._write(text)
            self._line = (self._line + text).rpartition("\n")[2]
            return
        from rich.text import Text

        done, _, self._line = (self._line + text).rpartition("\n")
        if done or "\n" in text:
            self._live.console.print(Text(done))
        self._live.update(Text(self._line), refresh=True)

    def _picture(self, draft: Draft) -> "Text":
        from rich.text import Text

        words = printable(draft.text).split(" ")
        same = SequenceMatcher(None, self._words, words, autojunk=False).get_matching_blocks()
        settled = {at for block in same for at in range(block.b, block.b + block.size)}
        self._words = words
        picture = Text(self._line)
        for at, word in enumerate(words):
            picture.append(f"{word} ", style="bold" if at in settled else "dim italic")
        return picture.append(f"\n{caption(draft)}", style="cyan")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def caption(draft: Draft) -> str:
    """One line about a draft: which canvas and step, and how sure the model is."""
    return (
        f"canvas {draft.canvas + 1}  step {draft.step:2}/{draft.max_steps}  "
        f"accepted {draft.accepted:3}/{len(draft.token_ids)}  {draft.mean_entropy:.2f} nats"
    )


def _can_redraw(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def _new_live(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return Live(console=console, auto_refresh=False, vertical_overflow="crop")
