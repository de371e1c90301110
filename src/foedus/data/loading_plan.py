"""Loading plans, as they are written: how a site's own file becomes the columns that a training plan expects.

Sites name columns, write units, classes and missing values each in their own way. A loading plan is a table (TOML) that
says it for one file, and belongs to the file's owner: which cells are missing, and for each column of the result where
it comes from and what is done to it (:mod:`foedus.data.loading`). Nothing in it is code. Free of torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from foedus.domain.names import PART
from foedus.domain.table import Name, Rate, Table, Text, read_toml, validate

MISSING = ("", "?", "na", "nan", "null", "none")
"""Cells that are missing where a plan does not say which, in lower case."""

TRAIN = "train"

COLUMNS = 10_000
"""Columns of a table at most."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class FileTable(Table):
    """How the file is read: its delimiter, the names of its columns where it has no header, and what a missing cell is.

    Without a header and without ``names`` the columns are called ``1``, ``2`` … in their order.
    """

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    header: bool = True
    names: list[Text] = Field(default_factory=list, max_length=COLUMNS)
    missing: list[Text] = Field(default_factory=lambda: [*MISSING], max_length=100)


class Statistics(Table):
    """Stated ones, in the column's unit after ``scale`` and ``offset``: ``(value - mean) / deviation``."""

    mean: Number = 0.0
    deviation: Rate = 1.0


class ColumnTable(Table):
    """One column of the result; :class:`LoadingPlan` says in which order these are done.

    ``from``: the file's name for it, where it is another one. ``classes``: text → number; any other text is refused,
    or missing as ``unknown`` says. ``absent``: whether a file may lack the column; its values then are missing.
    ``scale`` and ``offset``: ``value · scale + offset``. ``low``, ``high``: values below or above are missing.
    ``missing``: what becomes of missing values. ``normalise``: by stated statistics, or by those of the rows that are
    trained on, ``"train"``: their mean, and their deviation with ``n - 1`` (where they do not vary, 1).
    """

    source: Annotated[Text | None, Field(alias="from")] = None
    classes: Annotated[dict[Text, Number], Field(default_factory=dict, max_length=10_000)]
    scale: Number = 1.0
    offset: Number = 0.0
    low: Number | None = None
    high: Number | None = None
    absent: Literal["refuse", "missing"] = "refuse"
    unknown: Literal["refuse", "missing"] = "refuse"
    missing: Literal["refuse", "drop", "mean", "median", "mode"] | Number = "refuse"
    normalise: Literal["train"] | Statistics = Statistics()
    type: Literal["float32", "int64"] = "float32"


class LoadingPlan(Table):
    """A loading plan as it is written, kept and named in a round's record by :func:`digest`.

    A column is made in this order: classes become numbers, units are converted, values out of range count as missing,
    missing ones are refused, filled, or their rows dropped, and what is left may be normalised.

    ``folders`` is for data that are folders, in place of columns. Of images: a class's folder → its number; of a
    medical folder: a modality's folder → the name of its column, and modalities that are not named are left out.
    """

    name: Name
    file: FileTable = FileTable()
    columns: dict[Text, ColumnTable] = Field(default_factory=dict, max_length=COLUMNS)
    folders: dict[Text, Name | int] = Field(default_factory=dict, max_length=10_000)

    @model_validator(mode="after")
    def _a_table_or_folders(self) -> Self:
        if bool(self.columns) == bool(self.folders):
            raise ValueError("give either `columns`, for a table, or `folders`, for data that are folders")
        return self

    @model_validator(mode="after")
    def _rows_to_train_on_are_known(self) -> Self:
        wanted = [name for name, column in self.columns.items() if column.normalise == TRAIN]
        if wanted and PART not in self.columns:
            why = "is normalised by the rows that are trained on"
            raise ValueError(f"`columns.{wanted[0]}` {why}, and there is no column `{PART}` that says which these are")
        return self


def read_loading_plan(path: Path) -> LoadingPlan:
    """The loading plan in a TOML file.

    Raises:
        ConfigError: ``config_missing``, ``config_malformed``, ``config_refused``.
    """
    return validate(LoadingPlan, read_toml(path), f"The loading plan {path.name}")


def digest(plan: LoadingPlan) -> str:
    """SHA-256 over all that a plan says, its defaults too."""
    text = json.dumps(plan.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
