"""`dgemma quantize`: a checkpoint in full precision into a folder of quantised weights."""

import sys
from pathlib import Path

import click

from dgemma_backend.cli.terminal_text import one_line, printable, size_in_words


@click.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--format", "name", required=True, metavar="NAME", help="int4, fp8 or a registered format."
)
@click.option("--revision", metavar="NAME", help="Of a hub id: branch, tag or commit.")
@click.option(
    "--device",
    default="auto",
    metavar="DEVICE",
    help="Where it is computed: auto, cpu, cuda or cuda:N.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def quantize(
    source: str, destination: Path, name: str, revision: str | None, device: str, quiet: bool
) -> int:
    """Quantise SOURCE ('tiny', a checkpoint's folder or a hub id) into the new folder DESTINATION.

    The folder loads like any other: `dgemma generate --model DESTINATION`. Needs the memory of
    one expert, and leaves nothing behind when it is interrupted.
    """
    from dgemma_backend.plugins import Plugins
    from dgemma_backend.runtime.devices import choose_device
    from dgemma_backend.weights import sources
    from dgemma_backend.weights.quantizing import quantize_folder

    def tell(text: str) -> None:
        click.echo(printable(text), err=True)

    form = Plugins.load().quantization(name)()
    place = choose_device(device)
    folder = sources.resolve(source, revision=revision, progress=not quiet, tell=tell)
    with click.progressbar(length=1, label=f"to {name}", file=sys.stderr, hidden=quiet) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        left = quantize_folder(folder, destination, form, device=place, progress=progress)
    if left:
        tell(f"not copied: {one_line(', '.join(left))}")
    tell(size_in_words(sum(each.stat().st_size for each in destination.iterdir())))
    click.echo(printable(str(destination)))
    return 0
