"""`dgemma generate`: one prompt, one answer."""

import json
from dataclasses import asdict
from typing import Any

import click

from dgemma_backend.cli import answering, options


@click.command()
@click.argument("prompt", nargs=-1)
@options.engine_options
@options.settings_options
@click.option("--usage", "with_usage", is_flag=True, help="Tell on stderr what it cost.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole reply as JSON.")
def generate(prompt: tuple[str, ...], with_usage: bool, as_json: bool, **chosen: Any) -> int:
    """Answer PROMPT. Without one, or where it is `-`, standard input is read."""
    messages = options.conversation(options.prompt_from(prompt), chosen.pop("system"))
    settings = options.take_settings(chosen)
    engine = options.open_chosen_engine(chosen)
    if as_json:
        click.echo(json.dumps(asdict(engine.generate(messages, settings=settings)), indent=2))
        return 0
    with answering.catch_interrupt() as interrupt:
        # Drafts are asked for because each gives Ctrl-C its turn.
        events = engine.stream(messages, settings=settings, drafts=True)
        _, reply = answering.print_answer(events, interrupt)
    if reply is None:
        return 130
    answering.tell_cut(reply)
    if with_usage:
        click.echo(answering.summary(reply.usage), err=True)
    return 0
