"""An owner's file or folder as named columns: by its kind alone, or as a loading plan has its table read."""

from __future__ import annotations

import tempfile
from pathlib import Path

from foedus.data.catalogue import read_owned
from foedus.data.dataset import Columns
from foedus.data.loading import load
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import ENDINGS, Reading, kind_of
from foedus.data.query import snapshot
from foedus.domain.errors import DataError


def columns_of(reading: Reading, plan: LoadingPlan | None, path: Path) -> Columns:
    """The columns of the dataset at ``path``; ``plan`` reads tables: CSV, whatever its ending, and SQL queries.

    Raises:
        ConfigError: ``dataset_unknown``, ``config_refused``.
        DataError: as :func:`foedus.data.catalogue.read_owned` and :func:`foedus.data.loading.load`, and
            ``loading_refused``. No path is in them.
    """
    if plan is None:
        return read_owned(reading, path)
    unknown = path.is_file() and path.suffix.lower() not in ENDINGS
    kind = kind_of(path, reading.kind or ("csv" if unknown else ""))
    if kind == "csv":
        return load(plan, path)
    if kind == "sql":
        with tempfile.TemporaryDirectory(prefix="foedus-") as folder:
            snapshot(path, Path(folder) / "query.csv")
            return load(plan, Path(folder) / "query.csv")
    raise DataError(
        "loading_refused",
        f"A loading plan does not read {kind}.",
        "It reads CSV files and SQL queries.",
        "Leave the loading plan out, or give the data as one of these.",
    )
