"""``foedus data``: divide a dataset among clients, look at what each one gets, and write files that nodes can offer."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from foedus.cli.options import examples, parse_overrides, run_argument, set_option
from foedus.cli.output import emit, json_option, say, table
from foedus.data.align import align, to_toml
from foedus.data.catalogue import federate
from foedus.data.dataset import Columns, count
from foedus.data.files import write_columns
from foedus.data.population import Federation
from foedus.data.summary import Holding, holdings
from foedus.domain.errors import StorageError
from foedus.domain.names import check_name
from foedus.domain.plain import Json
from foedus.domain.run import RunSpec, run_file
from foedus.engine.prepare import read_spec

HELD_OUT = "held_out"
PICTURE = "partition.png"

LOOKED_AT = 1000
"""Clients that are counted and drawn at most; all are written."""

SHOWN = 20
"""Clients that the table shows at most; ``--json`` has all that were counted."""


@click.group("data")
def command() -> None:
    """Divide a dataset as a run's partition says; align the tables of sites that differ."""


@command.command(
    "align",
    epilog=examples(
        "foedus data align clinic.csv --name clinic --out clinic-draft.toml",
        "foedus data align clinic-draft.toml ward-draft.toml --name stays --out stays.toml",
        "foedus node data add clinic.csv --name clinic --tags stays --loading stays.toml",
    ),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="What the loading plan is called.")
@click.option("--label", default="label", show_default=True, help="The column that is learnt: nothing of it is filled.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Write it there (TOML).")
@json_option
def align_command(files: tuple[Path, ...], name: str, label: str, out: Path) -> None:
    """Make one loading plan for the tables FILE (.csv), or for plans that were drafted from some (.toml).

    It has the columns and classes of all, and rules for what a site lacks. It names columns and classes, and so has to
    be read before it is handed on.
    """
    plan = align(files, check_name(name, "loading plan"), label)
    out.write_text(to_toml(plan), encoding="utf-8")
    rows = [[each, len(column.classes) or "number", column.missing] for each, column in plan.columns.items()]
    emit({"plan": plan.model_dump(mode="json", by_alias=True)}, table(["column", "classes", "missing is"], rows))


@command.command(
    "partition",
    epilog=examples(
        "foedus data partition run.toml --plot",
        "foedus data partition run.toml --set data.partition.alpha=0.1 --plot skewed.svg",
        "foedus data partition run.toml --out parts",
        "foedus node data add parts/c0000.npz --name c0000 --tags digits",
    ),
)
@run_argument
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write each client's file there.")
@click.option(
    "--plot",
    is_flag=False,
    flag_value=PICTURE,
    metavar="[FILE]",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Draw what each client gets into a PNG, SVG or PDF file ({PICTURE} where none is named).",
)
@set_option
@json_option
def partition_command(run_toml: Path, out: Path | None, plot: Path | None, overrides: tuple[str, ...]) -> None:
    """Show what each client of RUN.toml gets; draw it; write one .npz per client, and held_out.npz, into --out."""
    spec = read_spec(run_toml, parse_overrides(overrides))
    federation = federate(spec, run_file(run_toml).parent)
    counted = holdings(federation, spec.data.label, LOOKED_AT)
    data: dict[str, Json] = {
        "population": len(federation.names),
        "clients": {
            one.client: {"examples": one.examples, "labels": {str(k): n for k, n in one.labels.items()}}
            for one in counted
        },
    }
    if federation.held_out is not None:
        data[HELD_OUT] = {"examples": count(federation.held_out)}
    if plot is not None:
        picture = importlib.import_module("foedus.cli.partition_picture")  # matplotlib is loaded by who draws
        picture.save(counted, _title(spec, federation, counted), plot)
        data["plot"] = str(plot)
    if out is not None:
        files = write_parts(federation, out)
        data["folder"] = str(out)
        data["files"] = {path.stem: {"path": str(path), "examples": rows} for path, rows in files}
    emit(data, _shown(counted))
    _tell(federation, counted, plot, out)


def write_parts(federation: Federation, out: Path) -> list[tuple[Path, int]]:
    """Write each client's columns and the held-out part as NPZ; returns the files and their numbers of examples.

    A client whose part is empty gets no file: a node would refuse it.

    Raises:
        StorageError: ``folder_unwritable``.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [_write(out / f"{name}.npz", federation.clients[name]) for name in federation.names]
        if federation.held_out is not None:
            files.append(_write(out / f"{HELD_OUT}.npz", federation.held_out))
    except OSError as error:
        why = error.strerror or ""
        raise StorageError("folder_unwritable", f"{out} cannot be written.", why, "Choose another folder.") from error
    return [(path, rows) for path, rows in files if rows]


def _write(path: Path, columns: Columns) -> tuple[Path, int]:
    rows = count(columns)
    if rows:
        write_columns(path, columns)
    return path, rows


def _shown(counted: Sequence[Holding]) -> str:
    """A short table: the first clients, with the labels that each has most of."""
    rows = [[one.client, one.examples, _labels(one)] for one in counted[:SHOWN]]
    return table(["client", "examples", "labels (how many)"], rows)


def _labels(one: Holding) -> str:
    common = sorted(asdict(one)["labels"].items(), key=lambda pair: (-pair[1], pair[0]))
    return "  ".join(f"{label} ({n})" for label, n in common[:6]) + (" …" if len(common) > 6 else "")


def _tell(federation: Federation, counted: Sequence[Holding], plot: Path | None, out: Path | None) -> None:
    """Say what the table leaves out, and where things are."""
    sizes = sorted(one.examples for one in counted)
    if len(federation.names) > SHOWN:
        say(f"… of {len(federation.names):,} clients; {len(counted):,} were counted")
    if sizes:
        say(f"examples per client: least {sizes[0]}, median {sizes[len(sizes) // 2]}, most {sizes[-1]}")
    if plot is not None:
        say(f"drawn in {plot}")
    if out is not None:
        say(f"written into {out}")


def _title(spec: RunSpec, federation: Federation, counted: Sequence[Holding]) -> str:
    division = spec.data.partition.name if spec.data.partition else spec.data.client or "its own clients"
    of = f" (the first {len(counted):,} of {len(federation.names):,})" if len(counted) < len(federation.names) else ""
    return f"{spec.data.name}: {division}{of}"
