"""Sites: a folder with a file for each client, as nodes would offer them; what `foedus data partition --out` writes.

A loading plan beside a file, of the same name and the ending .toml, says how the file is read. A file called held_out
belongs to no client.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from foedus.data.dataset import Columns
from foedus.data.files import read_columns
from foedus.data.loading import load
from foedus.data.loading_plan import read_loading_plan
from foedus.data.population import Federation, OnDemand
from foedus.data.sources.source import Request, Source, check_size, client_names, missing, required_folder
from foedus.domain.errors import DataError
from foedus.domain.table import Table, Text, nearest

ENDINGS, PLAN, HELD_OUT = (".csv", ".npz", ".safetensors"), ".toml", "held_out"
FILES = "It has a file for each client, .csv, .npz or .safetensors, and its loading plan beside it if there is one."


class SitesOptions(Table):
    """``clients``: the names of those that take part; none: all."""

    clients: list[Text] = Field(default_factory=list, max_length=100_000)


def read(request: Request) -> Federation:
    """The clients that have a file in ``[data] folder``, each read when it is asked for.

    Raises:
        DataError: ``dataset_missing``, ``site_unknown``; for a client, as
            :func:`foedus.data.loading.load` and :func:`foedus.data.files.read_columns`.
        ConfigError: ``config_refused``, of a loading plan.
    """
    folder = required_folder(request, FILES)
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS}
    apart = files.pop(HELD_OUT, None)
    if not files:
        raise missing(request.name, f"the folder {folder} has no such file", FILES)
    for name in request.options.clients:
        _check(name, files)
    chosen = [stem for stem in files if not request.options.clients or stem in request.options.clients]
    names, places = client_names(chosen)
    test = _columns(apart) if apart is not None and request.test else None
    return Federation(OnDemand(names, lambda place: _columns(files[chosen[places[place]]])), test)


def _check(name: str, files: dict[str, Path]) -> None:
    if name not in files:
        raise DataError(
            "site_unknown",
            f"There is no file of the client `{name}`.{nearest(name, files)}",
            f"There are: {', '.join(list(files)[:40])}.",
            "Correct `data.options.clients`.",
        )


def _columns(path: Path) -> Columns:
    check_size(path.stat().st_size, f"The file {path.name}")
    plan = path.with_suffix(PLAN)
    return load(read_loading_plan(plan), path) if plan.is_file() else read_columns(path)


SOURCE = Source(read, SitesOptions)
