"""Options that several verbs share, and what they become."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dgemma_backend.messages import Message
from dgemma_backend.settings import GenerationSettings

if TYPE_CHECKING:
    from dgemma_backend.runtime.engine import Engine

_ENGINE = [
    click.option("-m", "--model", default="tiny", show_default=True, metavar="NAME",
                 help="'tiny' (built in), a checkpoint's folder, or a hub id."),
    click.option("--engine", default="auto", metavar="KIND", help="A registered kind of engine."),
    click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N."),
    click.option("--dtype", default="auto", metavar="TYPE", help="auto, float32 or bfloat16."),
    click.option("--quantization", metavar="FORMAT", help="Quantize while loading: int4 or fp8."),
    click.option("--kernels", default="auto", metavar="NAME", help="auto or registered kernels."),
]  # fmt: skip

_SETTINGS = [
    click.option("--system", metavar="TEXT", help="Instructions above the conversation."),
    click.option("--max-tokens", type=int, metavar="N", help="Cut the answer after N tokens."),
    click.option("--temperature", type=float, metavar="T",
                 help="0: the most probable tokens; 1: the checkpoint's own noise."),
    click.option("--top-k", type=int, metavar="N", help="Propose from the N likeliest tokens."),
    click.option("--top-p", type=float, metavar="P", help="Propose from this much probability."),
    click.option("--seed", type=int, metavar="N", help="Same seed, same answer."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before TEXT; repeatable."),
    click.option("--max-denoising-steps", type=int, metavar="N", help="Steps a canvas may take."),
    click.option("--entropy-bound", type=float, metavar="NATS",
                 help="Uncertainty the sampler accepts in a step."),
    click.option("--confidence-threshold", type=float, metavar="NATS",
                 help="Mean entropy under which a stable canvas is done."),
    click.option("--sampler", default="entropy_bound", metavar="NAME", show_default=True),
    click.option("--stop-rule", default="stable_and_confident", metavar="NAME", show_default=True),
    click.option("--thinking", is_flag=True, help="Let the model think first."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Give up after this long."),
]  # fmt: skip

Command = Callable[..., Any]


def engine_options(command: Command) -> Command:
    """Which model, where it runs."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def settings_options(command: Command) -> Command:
    """What one request may choose."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


def take_settings(options: dict[str, Any]) -> GenerationSettings:
    """Remove the settings from `options`. Raises SettingError for one out of range."""
    names = [name for name in GenerationSettings.__dataclass_fields__ if name in options]
    return GenerationSettings.from_mapping({name: options.pop(name) for name in names})


def open_chosen_engine(options: dict[str, Any]) -> "Engine":
    """The engine that the remaining `options` name."""
    from dgemma_backend.runtime.opening import open_engine

    return open_engine(**options)


def prompt_from(words: Sequence[str]) -> str:
    """The prompt of a command line: its words, where `-` stands for standard input.

    Without words it is standard input. Raises UsageError when that is a terminal, because
    nothing would show that something is expected.
    """
    if not words and sys.stdin.isatty():
        raise click.UsageError("What is the prompt? Give it as an argument or pipe it in.")
    piped = sys.stdin.read().rstrip("\n") if not words or "-" in words else ""
    return " ".join(piped if word == "-" else word for word in words or ("-",))


def conversation(prompt: str, system: str | None) -> list[Message]:
    """One question, under the instructions if there are any."""
    return ([Message.system(system)] if system else []) + [Message.user(prompt)]
