"""Sites: a folder with a file for each client, as nodes would offer them; what `foedus data partition --out` writes.

A loading plan beside a file, of the same name and the ending .toml, says how the file is read. A file called held_out
belongs to no client. Tables that differ are read by the run's alignment, as on nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from foedus.data.align import Alignment, draft_rows, without_split
from foedus.data.aligned import aligned_columns, aligned_rows, draft_columns
from foedus.data.dataset import Columns
from foedus.data.files import read_columns
from foedus.data.loading import Rows, csv_rows, load
from foedus.data.loading_plan import ColumnTable, read_loading_plan
from foedus.data.population import Federation, OnDemand
from foedus.data.sources.source import Request, Source, check_size, client_names, missing, required_folder
from foedus.domain.errors import DataError
from foedus.domain.table import Table, Text, nearest

Result = TypeVar("Result")

ENDINGS, PLAN, HELD_OUT = (".csv", ".npz", ".safetensors"), ".toml", "held_out"
FILES = "It has a file for each client, .csv, .npz or .safetensors, and its loading plan beside it if there is one."


class SitesOptions(Table):
    """``clients``: the names of those that take part; none: all."""

    clients: list[Text] = Field(default_factory=list, max_length=100_000)


@dataclass(frozen=True)
class _Sites:
    """The files that there are: of each client by name, sorted, and of nobody."""

    clients: Mapping[str, Path]
    apart: Path | None


def read(request: Request) -> Federation:
    """The clients that have a file in ``[data] folder``, each read when it is asked for.

    Raises:
        DataError: ``dataset_missing``, ``site_unknown``; for a client, as :func:`foedus.data.loading.load`,
            :func:`foedus.data.files.read_columns` and :mod:`foedus.data.aligned`.
        ConfigError: ``config_refused``, of a loading plan.
    """
    sites = _sites(request)
    names = tuple(sites.clients)
    test = _columns(sites.apart, request.alignment) if sites.apart is not None and request.test else None
    return Federation(OnDemand(names, lambda place: _columns(sites.clients[names[place]], request.alignment)), test)


def drafts(request: Request, client: str | None) -> Mapping[str, Mapping[str, ColumnTable]]:
    """What these clients would tell of their columns, all or the one named, as their nodes do.

    Raises:
        DataError, ConfigError: as :mod:`foedus.data.align` drafts; ``dataset_missing``, ``site_unknown``.
    """
    clients = _sites(request).clients
    if client is not None:
        _check(client, clients, "data.align.client")
    chosen = clients if client is None else {client: clients[client]}
    return {name: without_split(_read(path, ",", draft_rows, draft_columns)) for name, path in chosen.items()}


def _sites(request: Request) -> _Sites:
    folder = required_folder(request, FILES)
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS}
    apart = files.pop(HELD_OUT, None)
    if not files:
        raise missing(request.name, f"the folder {folder} has no such file", FILES)
    for name in request.options.clients:
        _check(name, files, "data.options.clients")
    chosen = [stem for stem in files if not request.options.clients or stem in request.options.clients]
    names, places = client_names(chosen)
    return _Sites({name: files[chosen[place]] for name, place in zip(names, places, strict=True)}, apart)


def _check(name: str, known: Mapping[str, Path], key: str) -> None:
    if name not in known:
        raise DataError(
            "site_unknown",
            f"There is no file of the client `{name}`.{nearest(name, known)}",
            f"There are: {', '.join(list(known)[:40])}.",
            f"Correct `{key}`.",
        )


def _columns(path: Path, alignment: Alignment | None) -> Columns:
    if alignment is None:
        return _own(path)
    by = partial(aligned_rows, alignment), partial(aligned_columns, alignment)
    return _read(path, alignment.plan.file.delimiter, *by)


def _read(path: Path, delimiter: str, text: Callable[[Rows], Result], numbers: Callable[[Columns], Result]) -> Result:
    """What is made of a site's table: of its text, or of the numbers that it has or that its own loading plan makes."""
    if path.suffix.lower() != ".csv" or path.with_suffix(PLAN).is_file():
        return numbers(_own(path))
    check_size(path.stat().st_size, f"The file {path.name}")
    with csv_rows(path, delimiter) as rows:
        return text(rows)


def _own(path: Path) -> Columns:
    check_size(path.stat().st_size, f"The file {path.name}")
    plan = path.with_suffix(PLAN)
    return load(read_loading_plan(plan), path) if plan.is_file() else read_columns(path)


SOURCE = Source(read, SitesOptions, drafts=drafts)
