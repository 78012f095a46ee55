"""`dgemma chat`: a conversation."""

import sys
from typing import TYPE_CHECKING, Any

import click

from dgemma_backend.cli import answering, options
from dgemma_backend.cli.terminal_text import printable
from dgemma_backend.errors import DgemmaError, EngineClosedError
from dgemma_backend.messages import Message
from dgemma_backend.settings import GenerationSettings

if TYPE_CHECKING:
    from dgemma_backend.runtime.engine import Engine

HELP = "/new starts over, /exit or Ctrl-D leaves; Ctrl-C stops an answer."


@click.command()
@options.engine_options
@options.settings_options
@click.option("--watch", "drawn", is_flag=True, help="Draw the canvas while it settles.")
def chat(drawn: bool, **chosen: Any) -> int:
    """Talk with the model. Ctrl-C stops an answer; at the prompt it leaves."""
    system = chosen.pop("system")
    settings = options.take_settings(chosen)
    engine = options.open_chosen_engine(chosen)
    conversation = Conversation(engine, settings, system, drawn=drawn)
    if sys.stdin.isatty():
        click.echo(f"{engine.info.model} on {engine.info.device}. {HELP}", err=True)
    while (line := _ask()) is not None:
        command = line.strip()
        if command in ("/exit", "/quit"):
            break
        if command == "/new":
            conversation.start_over()
        elif command.startswith("/"):
            click.echo(f"There is no {command.split()[0]!r}. {HELP}", err=True)
        elif command:
            conversation.say(line)
    return 0


class Conversation:
    """The turns so far. What went wrong or was stopped before it began leaves no trace."""

    def __init__(
        self,
        engine: "Engine",
        settings: GenerationSettings,
        system: str | None,
        *,
        drawn: bool = False,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._first = [Message.system(system)] if system else []
        self._answer = answering.draw_answer if drawn else answering.print_answer
        self.messages = list(self._first)

    def start_over(self) -> None:
        """Forget all turns but the instructions."""
        self.messages = list(self._first)

    def say(self, line: str) -> None:
        """Send one line and print the answer."""
        asked = [*self.messages, Message.user(line)]
        try:
            with answering.catch_interrupt() as interrupt:
                events = self._engine.stream(asked, settings=self._settings, drafts=True)
                text, reply = self._answer(events, interrupt)
        except EngineClosedError:
            raise
        except DgemmaError as error:  # one bad request does not end the conversation
            click.echo(f"dgemma: {printable(str(error))}", err=True)
            return
        except KeyboardInterrupt:  # the second one, while the first was still being heard
            click.echo("[stopped]", err=True)
            return
        if reply is not None:
            answering.tell_cut(reply)
            self.messages = [*asked, reply.message]
        else:
            click.echo("[stopped]", err=True)
            if text:
                self.messages = [*asked, Message.assistant(text)]


def _ask() -> str | None:
    """The next line, None when there is none or the user leaves."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        if sys.stdin.isatty():
            click.echo()
        return None
