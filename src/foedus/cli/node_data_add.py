"""``foedus node data add``: offer a file as a client; it is read once, to see that it can be learnt from."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.node_data import dataset_table, described
from foedus.cli.options import examples, home_option
from foedus.cli.output import emit, json_option
from foedus.node.datasets import add_dataset


@click.command(
    "add",
    epilog=examples(
        "foedus node data add parts/c0000.npz --name c0000 --tags digits",
        "foedus node data add cleveland.csv --name cleveland --tags heart --loading cleveland.toml",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The client's name, unique per coordinator.")
@click.option("--tags", multiple=True, metavar="TAG,…", help="By these, runs find it; may be given again.")
@click.option("--loading", metavar="NAME|FILE", help="Read it by this loading plan: one kept here, or a .toml file.")
@home_option
@json_option
def command(path: Path, name: str, tags: tuple[str, ...], loading: str | None, home: Path) -> None:
    """Offer the file PATH (.npz, .csv or .safetensors) as the client --name."""
    chosen = [tag.strip() for text in tags for tag in text.split(",") if tag.strip()]
    dataset = add_dataset(home, path, name, chosen, loading)
    emit(described(dataset), dataset_table((dataset,)))
