"""``foedus data``: divide a dataset among clients, as files that nodes can offer."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples, parse_overrides, run_argument, set_option
from foedus.cli.output import emit, json_option, table
from foedus.data.catalogue import federate
from foedus.data.dataset import Columns
from foedus.data.files import write_columns
from foedus.domain.errors import StorageError
from foedus.domain.plain import Json
from foedus.domain.run import RunSpec
from foedus.engine.prepare import read_spec

HELD_OUT = "held_out"


@click.group("data")
def command() -> None:
    """Divide a dataset as a run's partition says."""


@command.command(
    "partition",
    epilog=examples(
        "foedus data partition run.toml --out parts", "foedus node data add parts/c0000.npz --name c0000 --tags digits"
    ),
)
@run_argument
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where the files go.")
@set_option
@json_option
def partition_command(run_toml: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Write one .npz per client of RUN.toml, and held_out.npz, into --out."""
    files = write_partition(read_spec(run_toml, parse_overrides(overrides)), run_toml.parent, out)
    rows = [[path.stem, count, path] for path, count in files]
    data: dict[str, Json] = {path.stem: {"path": str(path), "examples": count} for path, count in files}
    emit({"folder": str(out), "files": data}, table(["client", "examples", "file"], rows))


def write_partition(spec: RunSpec, base: Path, out: Path) -> list[tuple[Path, int]]:
    """Write each client's columns and the held-out part as NPZ; returns the files and their numbers of examples.

    A client whose part is empty gets no file: a node would refuse it.

    Raises:
        StorageError: ``folder_unwritable``.
    """
    federation = federate(spec, base)
    parts = {name: federation.clients[name] for name in sorted(federation.clients)}
    if federation.held_out is not None:
        parts[HELD_OUT] = federation.held_out
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [_write(out / f"{name}.npz", columns) for name, columns in parts.items() if _examples(columns)]
    except OSError as error:
        raise StorageError("folder_unwritable", f"{out} cannot be written.", error.strerror or "") from error


def _write(path: Path, columns: Columns) -> tuple[Path, int]:
    write_columns(path, columns)
    return path, _examples(columns)


def _examples(columns: Columns) -> int:
    return len(next(iter(columns.values())))
