"""The options by which a coordinator's own commands find its folder, database and file of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PLACE = click.Path(path_type=Path)


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config``, ``--folder`` and ``--database``; the command takes them on to ``read_settings``."""
    config = "A TOML file of settings; each may also be set as FOEDUS_COORDINATOR_<NAME>."
    database = "A PostgreSQL, as postgresql+psycopg://USER@HOST/NAME (default: an SQLite in the folder)."
    function = click.option("--database", metavar="URL", help=database)(function)
    function = click.option(
        "--folder", type=PLACE, help="Where it keeps everything (default: the user's data folder)."
    )(function)
    return click.option("--config", type=PLACE, help=config)(function)


def blobs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--blobs``."""
    blobs = "A bucket, as s3://BUCKET/PREFIX?endpoint=URL&region=NAME (default: blobs are in the folder)."
    return click.option("--blobs", metavar="URL", help=blobs)(function)
