"""``foedus node data add``: offer a file or folder as a client; it is read once, to see that it can be learnt from."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.node_data import dataset_text, described
from foedus.cli.options import examples, home_option, parse_overrides
from foedus.cli.output import emit, json_option
from foedus.data.owned import KINDS
from foedus.domain.table import override
from foedus.node.datasets import Terms, add_dataset


@click.command(
    "add",
    epilog=examples(
        "foedus node data add parts/c0000.npz --name c0000 --tags digits",
        "foedus node data add cleveland.csv --name cleveland --tags heart --loading cleveland.toml",
        'foedus node data add scans --name site-a --tags brain --kind medical --set \'modalities=["T1", "label"]\'',
        "foedus node data add patients.toml --name site-b --tags stays --minimum 50",
        "foedus node data add stays.csv --name site-c --tags stays --texts",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The client's name, unique per coordinator.")
@click.option("--tags", multiple=True, metavar="TAG,…", help="By these, runs find it; may be given again.")
@click.option("--kind", default="", metavar="KIND", help=f"How PATH is read: {', '.join(KINDS)}; else by its ending.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="An option of the kind, as size=28.")
@click.option("--loading", metavar="NAME|FILE", help="Read it by this loading plan: one kept here, or a .toml file.")
@click.option("--texts", is_flag=True, help="A table with texts or missing cells, for runs that align tables.")
@click.option("--description", default="", help="A line for the owner of the data.")
@click.option("--minimum", default=1, metavar="N", type=click.IntRange(min=1), help="Fewest examples to train on.")
@home_option
@json_option
def command(
    path: Path,
    name: str,
    tags: tuple[str, ...],
    kind: str,
    options: tuple[str, ...],
    loading: str | None,
    texts: bool,
    description: str,
    minimum: int,
    home: Path,
) -> None:
    """Offer the file or folder PATH as the client --name.

    A file: a table (.csv, .parquet, .npz, .safetensors, .arrow), or an SQL query, as a .toml file with `url` and
    `query`, where the URL stays. A folder: images with a folder per class; subjects with NIfTI files and demographics
    (--kind medical); or what a class `Loader` in its own loader.py reads.
    """
    if texts and loading is not None:
        raise click.UsageError("A loading plan makes numbers of texts: give either --texts or --loading.")
    chosen = [tag.strip() for text in tags for tag in text.split(",") if tag.strip()]
    terms = Terms(kind, _options(options), loading, description, minimum, texts)
    dataset = add_dataset(home, path, name, chosen, terms)
    emit(described(dataset), dataset_text(dataset))


def _options(texts: tuple[str, ...]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in parse_overrides(texts).items():
        override(table, key, value)
    return table
