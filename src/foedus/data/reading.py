"""An owner's file or folder as named columns: by its kind alone, or as a loading plan or a run has its table read."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foedus.data.align import Alignment, draft_rows, without_split
from foedus.data.aligned import aligned_columns, aligned_rows, draft_columns
from foedus.data.catalogue import read_owned, text_rows
from foedus.data.dataset import Columns
from foedus.data.loading import Rows, csv_rows, load_rows
from foedus.data.loading_plan import ColumnTable, LoadingPlan
from foedus.data.owned import ENDINGS, Reading, kind_of
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
    with text_of(kind, path, plan.file.delimiter) as rows:
        if rows is not None:
            return load_rows(plan, rows)
    raise _refused(kind)


def drafted(reading: Reading, plan: LoadingPlan | None, path: Path) -> dict[str, ColumnTable]:
    """What may be told of a table: its columns, and their classes where no loading plan makes numbers of them.

    Raises:
        ConfigError: ``align_refused``, and as :func:`columns_of`. DataError: as there.
    """
    found = None
    if plan is None:
        with text_of(kind_read(reading, None, path), path) as rows:
            found = None if rows is None else draft_rows(rows)
    return without_split(draft_columns(columns_of(reading, plan, path)) if found is None else found)


def aligned(alignment: Alignment, reading: Reading, plan: LoadingPlan | None, path: Path) -> Columns:
    """The columns of the alignment, of the table at ``path``; the owner's ``plan``, if there is one, reads it first.

    Raises:
        ConfigError: ``align_refused``, and as :func:`columns_of`. DataError: as there.
    """
    if plan is None:
        with text_of(kind_read(reading, None, path), path, alignment.plan.file.delimiter) as rows:
            if rows is not None:
                return aligned_rows(alignment, rows)
    return aligned_columns(alignment, columns_of(reading, plan, path))


@contextmanager
def text_of(kind: str, path: Path, delimiter: str = ",") -> Iterator[Rows | None]:
    """The rows of a table as cells of text, the names of the columns first; none where data of this kind have no text.

    Raises:
        ConfigError, DataError: as the file or the query is read.
    """
    if kind == "csv":
        with csv_rows(path, delimiter) as rows:
            yield rows
    elif kind == "sql":
        with tempfile.TemporaryDirectory(prefix="foedus-") as folder:
            query = importlib.import_module("foedus.data.query")  # SQLAlchemy is loaded by who asks a database
            query.snapshot(path, Path(folder) / "query.csv")
            with csv_rows(Path(folder) / "query.csv", delimiter) as rows:
                yield rows
    else:
        yield text_rows(kind, path)


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
