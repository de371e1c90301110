"""What an SQL query gives, by way of a CSV file that lives as long as it is read (:mod:`foedus.data.query`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from foedus.data.files import read_columns, read_keyed
from foedus.data.population import Federation
from foedus.data.query import snapshot
from foedus.data.sources.source import Pool, Request, Source, grouped, required_file


def read(request: Request) -> Pool | Federation:
    """The columns of the query in ``[data] file``: one pool, or the clients that the column ``[data] client`` names.

    Raises:
        DataError: ``dataset_missing``, ``column_missing``, and as :func:`foedus.data.query.snapshot`.
    """
    path = required_file(request, "It is a TOML file with `url` and `query`.")
    with tempfile.TemporaryDirectory(prefix="foedus-") as folder:
        found = Path(folder) / "query.csv"
        snapshot(path, found)
        if request.client is None:
            return Pool(read_columns(found))
        return Federation(grouped(*read_keyed(found, request.client)))


SOURCE = Source(read)
