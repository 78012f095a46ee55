"""`dgemma pull`: fetch a checkpoint from the Hugging Face hub."""

from pathlib import Path

import click

from dgemma_backend.cli.terminal_text import printable


@click.command()
@click.argument("model")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit; the newest by default.")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where to put it, instead of the Hugging Face cache.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bar.")
def pull(model: str, revision: str | None, folder: Path | None, quiet: bool) -> int:
    """Fetch MODEL, a hub id such as google/diffusiongemma-26B-A4B-it.

    Prints the folder. A download that was interrupted goes on where it stopped.
    """
    from dgemma_backend.weights import sources

    def tell(text: str) -> None:
        click.echo(printable(text), err=True)

    pulled = sources.pull(model, revision, folder, progress=not quiet, tell=tell)
    tell(f"revision {pulled.revision}")
    click.echo(printable(str(pulled.folder)))
    return 0
