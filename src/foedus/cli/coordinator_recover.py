"""``foedus coordinator token recover``: a token for who has the coordinator's folder."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.connection import LOCAL
from foedus.cli.coordinator_token import show_token
from foedus.cli.output import json_option
from foedus.coordinator.recovery import recover


@click.command("recover")
@click.option("--folder", type=click.Path(path_type=Path), help="The coordinator's folder.")
@json_option
def command(folder: Path | None) -> None:
    """Make a token for the first admin, on the coordinator's own machine: for when every other is lost."""
    show_token(recover(folder), LOCAL)
