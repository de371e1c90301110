"""``foedus node data``: the datasets that a node offers, each a client's."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import examples, home_option
from foedus.cli.output import emit, json_option, table
from foedus.node.datasets import add_dataset, list_datasets, remove_dataset
from foedus.node.vault import Dataset


@click.group("data")
def command() -> None:
    """The datasets that this node offers. Their files stay where they are, and never leave this machine."""


@command.command("add", epilog=examples("foedus node data add parts/c0000.npz --name c0000 --tags digits"))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The client's name, unique per coordinator.")
@click.option("--tags", multiple=True, metavar="TAG,…", help="By these, runs find it; may be given again.")
@home_option
@json_option
def add(path: Path, name: str, tags: tuple[str, ...], home: Path) -> None:
    """Offer the file PATH (.npz, .csv or .safetensors) as the client --name."""
    chosen = [tag.strip() for text in tags for tag in text.split(",") if tag.strip()]
    dataset = add_dataset(home, path, name, chosen)
    emit(_described(dataset), _table((dataset,)))


@command.command("list")
@home_option
@json_option
def list_command(home: Path) -> None:
    """List the datasets on offer."""
    datasets = list_datasets(home)
    emit({"datasets": [_described(each) for each in datasets]}, _table(datasets))


@command.command("remove")
@click.argument("name")
@home_option
@json_option
def remove(name: str, home: Path) -> None:
    """Offer NAME no longer; its file stays."""
    remove_dataset(home, name)
    emit({"removed": name}, f"{name} is not offered any more.")


def _table(datasets: tuple[Dataset, ...]) -> str:
    rows = [[each.client, each.examples, ",".join(each.tags), ",".join(each.columns), each.path] for each in datasets]
    return table(["name", "examples", "tags", "columns", "file"], rows)


def _described(dataset: Dataset) -> dict[str, object]:
    return {**vars(dataset), "path": str(dataset.path)}
