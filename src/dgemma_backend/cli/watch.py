"""`dgemma watch`: the canvas settling, step by step."""

from typing import Any

import click

from dgemma_backend.cli import answering, options


@click.command()
@click.argument("prompt", nargs=-1)
@options.engine_options
@options.settings_options
def watch(prompt: tuple[str, ...], **chosen: Any) -> int:
    """Answer PROMPT and draw the canvas after every step.

    In a terminal the picture is redrawn in place; anywhere else each step is a line.
    """
    messages = options.conversation(options.prompt_from(prompt), chosen.pop("system"))
    settings = options.take_settings(chosen)
    engine = options.open_chosen_engine(chosen)
    with answering.catch_interrupt() as interrupt:
        events = engine.stream(messages, settings=settings, drafts=True)
        _, reply = answering.draw_answer(events, interrupt)
    if reply is None:
        return 130
    click.echo(answering.summary(reply.usage))
    answering.tell_cut(reply)
    return 0
