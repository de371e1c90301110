"""How a file or folder of an owner's is read: by which source, with which options. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from foedus.data.names import check_source
from foedus.domain.errors import DataError
from foedus.domain.table import PositiveInt, Table, Text

ENDINGS: Mapping[str, str] = {
    **{".csv": "csv", ".npz": "npz", ".safetensors": "safetensors", ".parquet": "parquet", ".arrow": "arrow"},
    **{".toml": "sql"},
}
"""A file's ending → the source that reads it."""

FOLDERS = frozenset({"images", "loader", "medical"})
"""What reads a folder; all else reads a file."""

KINDS = (*sorted(set(ENDINGS.values())), *sorted(FOLDERS))
"""What a dataset of an owner's can be: the sources that read one place and have no clients of their own."""

LOADER = "loader.py"
"""The file of an owner's loader class, in the folder that it reads."""


class Reading(Table):
    """How a dataset is read: its kind (empty: by the path), the kind's options, and the fewest examples to work on."""

    kind: Text = ""
    options: dict[str, Any] = Field(default_factory=dict)
    minimum: PositiveInt = 1


def kind_of(path: Path, kind: str = "") -> str:
    """The kind of the dataset at ``path``: the one that was said, or the one that the place looks like.

    Raises:
        ConfigError: ``dataset_unknown``. DataError: ``dataset_unreadable``. Neither has the path.
    """
    if not path.exists():
        raise DataError("dataset_unreadable", "There is no such file or folder.", "", "Correct the path.")
    folder = path.is_dir()
    # A loader is code, so its owner says so: a folder that came from elsewhere might have a file of that name.
    looks = "images" if folder else ENDINGS.get(path.suffix.lower(), "")
    if kind:
        check_source(kind, KINDS)
    if (found := kind or looks) and folder == (found in FOLDERS):
        return found
    what = "a folder" if folder else "a file"
    ending = "" if folder else f" Files end in one of: {', '.join(ENDINGS)}."
    raise DataError(
        "dataset_unreadable",
        f"It is {what}, which cannot be read as {kind or 'a dataset'}.",
        f"Folders are read as {', '.join(sorted(FOLDERS))}.{ending}",
        "Name another place, or say another kind.",
    )


def check_minimum(examples: int, minimum: int) -> None:
    """Refuse to rest on fewer examples than the owner wants.

    Raises:
        DataError: ``too_few_examples``.
    """
    if examples < minimum:
        raise DataError(
            "too_few_examples",
            "There are fewer examples than the dataset's owner wants a run to rest on.",
            f"The owner wants {minimum} at least.",
            "Train on more: keep fewer for tests, or leave fewer rows out.",
        )
