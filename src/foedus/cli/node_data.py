"""``foedus node data``: the datasets that a node offers, each a client's."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.lazy import LazyGroup
from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option, table
from foedus.domain.errors import NotFoundError
from foedus.node.owner import list_datasets, remove_dataset
from foedus.node.vault import Dataset

LAZY = {
    "add": ("foedus.cli.node_data_add", "Offer a file or folder as a client."),
    "schema": ("foedus.cli.node_data_schema", "Show what runs that align tables may be told of a dataset."),
}
"""What reads data, and so loads torch."""

SHOWN = ("shape", "classes", "mean", "deviation", "low", "high")
"""What is shown of columns, where they have it (:mod:`foedus.data.statistics`)."""


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


@command.command("show")
@click.argument("name")
@click.option("--path", is_flag=True, help="Print where it is, and nothing else.")
@home_option
@json_option
def show(name: str, path: bool, home: Path) -> None:
    """Show the dataset NAME: how it is read, and statistics of its columns. They stay on this machine."""
    dataset = next((each for each in list_datasets(home) if each.client == name), None)
    if dataset is None:
        raise NotFoundError(
            "dataset_unknown", f"There is no dataset {name!r:.80} on this node.", "", "See `foedus node data list`."
        )
    if path:
        emit({"path": str(dataset.path)}, str(dataset.path))
    else:
        emit(described(dataset), dataset_text(dataset))


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
    rows = [[each.client, each.kind, each.examples, ",".join(each.tags), each.description] for each in datasets]
    return table(["name", "kind", "examples", "tags", "description"], rows)


def dataset_text(dataset: Dataset) -> str:
    """One dataset, for its owner: what it is called and how it is read, and each column with its statistics."""
    said = ", ".join(f"{key} = {value}" for key, value in dataset.options.items())
    kind = f"{dataset.kind or 'a file'}{f' ({said})' if said else ''}"
    lines = [
        f"{dataset.client}: {dataset.examples} examples, {kind}",
        *([dataset.description] if dataset.description else []),
        f"tags: {', '.join(dataset.tags) or 'none'}",
        *([f"no run trains on fewer than {dataset.minimum} examples"] if dataset.minimum > 1 else []),
        *([f"read by the loading plan {dataset.loading}; so plans see it:"] if dataset.loading else []),
    ]
    there = [key for key in SHOWN if any(column.get(key) not in (None, []) for column in dataset.summary)]
    keys = ("name", "dtype", *there)
    rows = [[_shown(column.get(key, "")) for key in keys] for column in dataset.summary]
    return "\n".join([*lines, table(["column", *keys[1:]], rows)])


def described(dataset: Dataset) -> dict[str, object]:
    """A dataset as plain data, without its place."""
    return {key: value for key, value in vars(dataset).items() if key != "path"}


def _shown(value: object) -> object:
    if isinstance(value, list):
        return "×".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else value
