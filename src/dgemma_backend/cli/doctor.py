"""`dgemma doctor`: what this machine has, and what it can run."""

import json
from dataclasses import asdict

import click

from dgemma_backend.cli.terminal_text import one_line

MARKS = {"ok": "ok     ", "absent": "absent ", "problem": "PROBLEM"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """Say what this machine has and can run. Exit code 1 if something needs mending."""
    from dgemma_backend.cli.findings import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
    else:
        width = max(len(each.name) for each in findings)
        for each in findings:
            click.echo(f"{MARKS[each.status]} {each.name:{width}}  {one_line(each.detail)}")
            if each.mend:
                click.echo(f"{'':{width + 9}} -> {one_line(each.mend)}")
    return 1 if any(each.status == "problem" for each in findings) else 0
