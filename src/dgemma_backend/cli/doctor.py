"""`dgemma doctor`: what this machine has, and what it can run."""

import json
from dataclasses import asdict
from functools import partial

import click

from dgemma_backend.cli.terminal_text import one_line

MARKS = {"ok": "ok     ", "absent": "absent ", "problem": "PROBLEM"}


@click.command()
@click.option(
    "-m",
    "--model",
    metavar="NAME",
    help="Count the memory this model takes: 'tiny', a folder or a hub id.",
)
@click.option("--quantization", metavar="NAME", help="... if it is quantised so while it loads.")
@click.option(
    "--context",
    type=int,
    metavar="N",
    help="... with so many tokens of prompt and answer (8192, or all the model has).",
)
@click.option(
    "--canvases",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="... and so many requests at a time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    model: str | None, quantization: str | None, context: int | None, canvases: int, as_json: bool
) -> int:
    """Say what this machine has and can run. Exit code 1 if something needs mending.

    With --model, say what that model would take of memory; only its config.json is read.
    """
    from dgemma_backend.cli.findings import examine
    from dgemma_backend.cli.memory import examine_model

    if model is None:
        if quantization is not None or context is not None:
            what = "--context" if quantization is None else "--quantization"
            raise click.UsageError(f"{what} is of a model: name it with --model.")
        findings = examine()
    else:
        tell = partial(click.echo, err=True)
        findings = examine_model(model, quantization, context, canvases, tell)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
    else:
        width = max(len(each.name) for each in findings)
        for each in findings:
            click.echo(f"{MARKS[each.status]} {each.name:{width}}  {one_line(each.detail)}")
            if each.mend:
                click.echo(f"{'':{width + 9}} -> {one_line(each.mend)}")
    return 1 if any(each.status == "problem" for each in findings) else 0
