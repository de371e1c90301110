"""``foedus run plot``: a run's curves as a picture, drawn when it is wanted."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples
from foedus.cli.output import emit, json_option, write_file
from foedus.engine.compare import read_run
from foedus.engine.folder import CURVES
from foedus.engine.picture import curves_png


@click.command("plot", epilog=examples("foedus run plot runs/a", "foedus run plot runs/a --out curves.png"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file (default: FOLDER/curves.png).")
@json_option
def command(folder: Path, out: Path | None) -> None:
    """Draw the curves of the run in FOLDER as a PNG."""
    target = out or folder / CURVES
    picture = curves_png(read_run(folder, folder.name).rows)
    write_file(target, picture)
    emit({"path": str(target), "bytes": len(picture)}, str(target))
