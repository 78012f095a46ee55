"""`dgemma plugins`: what is installed, what it offers, what is wrong with it."""

import json
import warnings
from dataclasses import asdict

import click

from dgemma_backend.cli.terminal_text import one_line
from dgemma_backend.plugins import PluginInfo, Plugins


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> int:
    """List the plugins, ours included. Exit code 1 if one has a problem."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the listing tells the same
        listing = Plugins.load().listing()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in listing], indent=2))
    else:
        for each in listing:
            _print(each)
    return 1 if any(each.problems for each in listing) else 0


def _print(plugin: PluginInfo) -> None:
    click.echo(f"{plugin.name} ({plugin.source}): {plugin.status}")
    for kind, name in plugin.offers:
        click.echo(f"  {kind} {name}")
    for hook in plugin.observes:
        click.echo(f"  observes {hook}")
    for problem in plugin.problems:
        click.echo(f"  problem: {one_line(problem)}")
