"""``foedus node data``: the datasets that a node offers, each a client's."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.lazy import LazyGroup
from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.node.owner import list_datasets, remove_dataset
from foedus.node.vault import Dataset

LAZY = {"add": ("foedus.cli.node_data_add", "Offer a file as a client.")}
"""What reads data, and so loads torch."""


@click.group("data", cls=LazyGroup, lazy=LAZY)
def command() -> None:
    """The datasets that this node offers. Their files stay where they are, and never leave this machine."""


@command.command("list")
@home_option
@json_option
def list_command(home: Path) -> None:
    """List the datasets on offer."""
    datasets = list_datasets(home)
    emit({"datasets": [described(each) for each in datasets]}, dataset_table(datasets))


@command.command("remove")
@click.argument("name")
@home_option
@json_option
def remove(name: str, home: Path) -> None:
    """Offer NAME no longer; its file stays."""
    remove_dataset(home, name)
    emit({"removed": name}, f"{name} is not offered any more.")


def dataset_table(datasets: tuple[Dataset, ...]) -> str:
    """Datasets, for people."""
    rows = [[each.client, each.examples, ",".join(each.tags), ",".join(each.columns), each.path] for each in datasets]
    return table(["name", "examples", "tags", "columns", "file"], rows)


def described(dataset: Dataset) -> dict[str, object]:
    """A dataset as plain data."""
    return {**vars(dataset), "path": str(dataset.path)}
