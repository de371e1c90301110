"""An owner's file or folder as named columns: by its kind alone, or as a loading plan has its table read."""

from __future__ import annotations

import tempfile
from pathlib import Path

from foedus.data.catalogue import read_owned, text_rows
from foedus.data.dataset import Columns
from foedus.data.loading import load, load_rows
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import ENDINGS, Reading, kind_of
from foedus.data.query import snapshot
from foedus.domain.errors import DataError


def columns_of(reading: Reading, plan: LoadingPlan | None, path: Path) -> Columns:
    """The columns of the dataset at ``path``; ``plan`` reads tables with text: CSV, Parquet, Arrow and SQL queries.

    Raises:
        ConfigError: ``dataset_unknown``, ``config_refused``.
        DataError: as :func:`foedus.data.catalogue.read_owned` and :func:`foedus.data.loading.load`, and
            ``loading_refused``. No path is in them.
    """
    if plan is None:
        return read_owned(reading, path)
    kind = kind_read(reading, plan, path)
    if plan.folders:
        return _of_folders(reading, plan, path, kind)
    if kind == "csv":
        return load(plan, path)
    if kind == "sql":
        with tempfile.TemporaryDirectory(prefix="foedus-") as folder:
            snapshot(path, Path(folder) / "query.csv")
            return load(plan, Path(folder) / "query.csv")
    if (rows := text_rows(kind, path)) is not None:
        return load_rows(plan, rows)
    raise _refused(kind)


def _of_folders(reading: Reading, plan: LoadingPlan, path: Path, kind: str) -> Columns:
    """What a loading plan's names of folders make of images by class, or of a medical folder's modalities."""
    if kind == "images":
        return read_owned(_with(reading, "classes", plan.folders), path)
    if kind != "medical":
        raise _refused(kind)
    found = read_owned(_with(reading, "modalities", sorted(plan.folders)), path)
    named = {str(plan.folders.get(name, name)): column for name, column in found.items()}
    if len(named) < len(found):
        raise DataError(
            "loading_refused",
            "Two columns would have the same name.",
            "The loading plan gives it to a modality, and it is another one's too.",
            "Give each of `folders` a name of its own.",
        )
    return named


def _with(reading: Reading, option: str, value: object) -> Reading:
    return reading.model_copy(update={"options": {**reading.options, option: value}})


def _refused(kind: str) -> DataError:
    return DataError(
        "loading_refused",
        f"This loading plan does not read {kind}.",
        "With `columns` it reads CSV, Parquet and Arrow files and SQL queries; with `folders` images and medical.",
        "Leave the loading plan out, or give the data as one of these.",
    )


def kind_read(reading: Reading, plan: LoadingPlan | None, path: Path) -> str:
    """The kind of what is at ``path``; what has an ending of its own is CSV where a loading plan reads it.

    Raises:
        ConfigError, DataError: as :func:`foedus.data.owned.kind_of`.
    """
    own = plan is not None and path.is_file() and path.suffix.lower() not in ENDINGS
    return kind_of(path, reading.kind or ("csv" if own else ""))
