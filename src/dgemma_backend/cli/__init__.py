"""The `dgemma` command: one module per verb.

Verbs import the engine when they run, so that `dgemma --help` loads neither torch nor anything
else that takes its time.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import click

from dgemma_backend import __version__
from dgemma_backend.cli.chat import chat
from dgemma_backend.cli.doctor import doctor
from dgemma_backend.cli.generate import generate
from dgemma_backend.cli.plugins import plugins
from dgemma_backend.cli.pull import pull
from dgemma_backend.cli.quantize import quantize
from dgemma_backend.cli.render import render
from dgemma_backend.cli.terminal_text import printable
from dgemma_backend.cli.watch import watch
from dgemma_backend.errors import DgemmaError

__all__ = ["commands", "main"]

REFUSED, INTERRUPTED = 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dgemma")
def commands() -> None:
    """Run DiffusionGemma: text that settles out of noise, a canvas at a time."""


for verb in (generate, chat, watch, doctor, plugins, pull, quantize, render):
    commands.add_command(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; our own errors are one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that lacks a character is no failure
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            result = commands.main(args=arguments, prog_name="dgemma", standalone_mode=False)
    except DgemmaError as error:
        _complain(str(error))
        return REFUSED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _complain(text: str) -> None:
    click.echo(f"dgemma: {printable(text)}", err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    _complain(f"warning: {message}")
