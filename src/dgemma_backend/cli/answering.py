"""Prints an answer as its events come, and lets Ctrl-C end it cleanly."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from dgemma_backend.cli.canvas_view import CanvasView
from dgemma_backend.cli.terminal_text import one_line, printable
from dgemma_backend.events import (
    Event,
    Finished,
    InvalidToolCallDone,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from dgemma_backend.messages import Reply, Usage


class Interrupt:
    """Whether Ctrl-C was pressed since it was set up."""

    def __init__(self) -> None:
        self.pressed = False


@contextmanager
def catch_interrupt() -> Iterator[Interrupt]:
    """Note the first Ctrl-C instead of raising; the second one raises KeyboardInterrupt."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        interrupt.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def print_answer(events: Iterator[Event], interrupt: Interrupt) -> tuple[str, Reply | None]:
    """Print final text as it comes. Returns it, with the reply unless it was interrupted."""
    text = ""
    try:
        for event in events:
            if interrupt.pressed:
                break
            if isinstance(event, TextDelta):
                text += event.text
                click.echo(printable(event.text), nl=False)
            elif isinstance(event, Finished):
                _end_line(text)
                return text, event.reply
            else:
                tell_apart(event)
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()
    _end_line(text)
    return text, None


def draw_answer(events: Iterator[Event], interrupt: Interrupt) -> tuple[str, Reply | None]:
    """The same with every draft, drawn."""
    text, reply = "", None
    try:
        with CanvasView() as view:
            for event in events:
                if interrupt.pressed:
                    break
                view.show(event)
                text += event.text if isinstance(event, TextDelta) else ""
                reply = event.reply if isinstance(event, Finished) else None
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()
    return text, reply


def tell_apart(event: Event) -> None:
    """What is not part of the answer goes to stderr: thoughts and calls."""
    if isinstance(event, ReasoningDelta):
        click.echo(click.style(printable(event.text), dim=True), err=True)
    elif isinstance(event, ToolCallDone):
        call = f"{event.call.name}({dict(event.call.arguments)})"
        click.echo(f"[calls {one_line(call)}]", err=True)
    elif isinstance(event, InvalidToolCallDone):
        click.echo(f"[a call that cannot be read: {one_line(event.call.raw)}]", err=True)


def tell_cut(reply: Reply) -> None:
    """Say on stderr when the answer did not end by itself."""
    if reply.finish_reason == "length":
        count = reply.usage.completion_tokens
        click.echo(f"dgemma: cut after {count} tokens (--max-tokens allows more)", err=True)


def summary(usage: Usage) -> str:
    """What an answer cost, on one line."""
    seconds = usage.prefill_seconds + usage.decode_seconds
    canvases = "canvas" if usage.canvases == 1 else "canvases"
    return (
        f"{usage.completion_tokens} tokens, {usage.canvases} {canvases}, "
        f"{usage.denoising_steps} steps, {usage.tokens_per_forward:.1f} tokens per step, "
        f"{seconds:.2f} s"
    )


def _end_line(text: str) -> None:
    if text and not text.endswith("\n"):
        click.echo()
