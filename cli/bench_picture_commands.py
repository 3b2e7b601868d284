"""The command `write-batcher bench picture DIR`."""

from pathlib import Path
from typing import Annotated

import typer

from write_batcher.cli.console import say
from write_batcher.errors import ConfigurationError

FILE_NAME = "drain.svg"


def picture_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with results, as `bench drain --out` saves.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"SVG file to write. Default: DIR/{FILE_NAME}.")
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file with the figures of an earlier commit, shown beside `plain`."),
    ] = None,
) -> None:
    """Draw how fast the drain is from saved results: rows per second and CPU time per row, ours beside the floor."""
    from write_batcher.bench.before_figures import load_before
    from write_batcher.bench.drain_picture import load_picture
    from write_batcher.bench.drain_svg import draw_drain

    path = out or folder / FILE_NAME
    if path.suffix != ".svg":
        raise ConfigurationError(f"Option --out {path} is no SVG file: give a name that ends with .svg.")
    svg = draw_drain(load_picture(folder, load_before(before) if before else None))
    try:
        path.write_text(svg, "utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"Picture {path} cannot be written ({error.strerror}): choose another --out."
        ) from error
    say(f"picture: {path}")
