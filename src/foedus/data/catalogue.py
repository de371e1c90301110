"""Data sets by name, and the federation that a run simulates: clients, and a held-out part that belongs to nobody.

A name stands for a module under :mod:`foedus.data.sources`, which is imported when a run asks for it: what one source
needs costs the others neither time nor an installation.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from foedus.data.align import Alignment, alignment_of, read_alignment
from foedus.data.dataset import Columns, count
from foedus.data.names import SOURCES, check_source
from foedus.data.owned import Reading, kind_of
from foedus.data.partition import clients_of
from foedus.data.population import Federation, OnDemand, take
from foedus.data.sources.source import Pool, Request, Source
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.rng import generator
from foedus.domain.run import DataTable, RunSpec
from foedus.domain.table import validate

TEST = "test"
"""The value of ``held_out`` that means the source's own test part."""


def federate(spec: RunSpec, base: Path, alignment: Alignment | None = None) -> Federation:
    """Load the run's data set, cut the held-out part, and divide the rest; paths are relative to ``base``.

    ``alignment``: how tables that differ are read, where it is known already; else it is :func:`alignment_here`.

    Raises:
        ConfigError: ``dataset_unknown``, ``align_refused``, and as :func:`foedus.data.partition.clients_of`.
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_empty``, ``extra_missing``,
            ``partition_missing``, ``partition_refused``, ``partition_too_thin``, and others of the source.
    """
    data = spec.data
    found = load(data, base, spec.seed, alignment or alignment_here(data, base))
    if isinstance(found, Federation):
        return replace(_natural(data, found, spec.seed), described=True)
    if data.partition is None:
        raise DataError(
            "partition_missing",
            f"`{data.name}` is one pool of examples, and the run has no `[data] partition`.",
            "A simulation needs clients.",
            'Add, say, partition = { name = "iid", clients = 10 }, or name the column of clients with `client`.',
        )
    rest, kept = found.columns, found.test
    if isinstance(data.held_out, float):
        rest, kept = held_out(found.columns, data.held_out, spec.seed)
    if data.held_out is not None and (kept is None or not count(kept)):
        raise _nothing_held_out(data, f"It has {count(found.columns)} examples")
    clients = clients_of(rest, data.label, data.partition, spec.seed)
    return replace(clients, held_out=kept, described=True)


def load(data: DataTable, base: Path = Path(), seed: int = 0, alignment: Alignment | None = None) -> Pool | Federation:
    """What the source of a run's data gives: a pool of examples, or clients of its own.

    Raises:
        ConfigError: ``dataset_unknown``, ``config_refused``, ``align_refused``.
        DataError: as the source does, and ``extra_missing``.
    """
    source = _source(data.name)
    if data.align is not None and source.drafts is None:
        raise _not_sites(data)
    return source.read(_request(source, data, base, seed, alignment))


def alignment_here(data: DataTable, base: Path) -> Alignment | None:
    """How the tables of a run are read alike: by the researcher's loading plan, or by the columns of the sites here.

    Raises:
        ConfigError: ``align_refused``, and as :func:`foedus.data.loading_plan.read_loading_plan`.
        DataError: as the sites' files are read, and ``site_unknown``.
    """
    if data.align is None:
        return None
    if data.align.loading is not None:
        return read_alignment(base / data.align.loading, data.label)
    source = _source(data.name)
    if source.drafts is None:
        raise _not_sites(data)
    told = source.drafts(_request(source, data, base), data.align.client)
    return alignment_of(told.values(), data.label)


def _not_sites(data: DataTable) -> ConfigError:
    return ConfigError(
        "align_refused",
        f"Tables of `{data.name}` cannot be aligned.",
        "In simulation `[data.align]` reads the tables of `sites`; live it asks the nodes.",
        'Say name = "sites" and the `folder` of their files, or leave `[data.align]` out.',
    )


def _request(source: Source, data: DataTable, base: Path, seed: int = 0, alignment: Alignment | None = None) -> Request:
    return Request(
        data.name,
        folder=base / data.folder if data.folder else None,
        file=base / data.file if data.file else None,
        client=data.client,
        label=data.label,
        test=data.held_out == TEST,
        seed=seed,
        options=validate(source.options, data.options, f"[data] options of {data.name}"),
        alignment=alignment,
    )


def read_owned(reading: Reading, path: Path) -> Columns:
    """The columns of a file or folder of an owner's. No refusal names the place.

    Raises:
        ConfigError: ``dataset_unknown``, ``config_refused``.
        DataError: ``dataset_missing``, ``extra_missing``, and as the source does.
    """
    kind = kind_of(path, reading.kind)
    source = _source(kind)
    options = validate(source.options, reading.options, f"The options of {kind}")
    found = source.read(Request(kind, folder=path, file=path, options=options))
    assert isinstance(found, Pool)  # none of these kinds has clients of its own where no column names them
    return found.columns


def text_rows(kind: str, path: Path) -> Iterator[list[str]] | None:
    """The rows of a table as cells of text, the names of the columns first; none where the kind has no text.

    Raises:
        DataError: ``extra_missing``, and as the rows are read.
    """
    rows = _source(kind).rows
    return None if rows is None else rows(path)


def held_out(columns: Columns, share: float, seed: int) -> tuple[Columns, Columns]:
    """The columns without ``floor(share * n)`` examples, and those examples, by a permutation from the seed."""
    examples = count(columns)
    order = torch.randperm(examples, generator=generator(seed, 0, "", "held_out"))
    kept = int(share * examples)
    return take(columns, order[kept:].sort().values), take(columns, order[:kept].sort().values)


def _source(name: str) -> Source:
    check_source(name)
    module, attribute, extra = SOURCES[name]
    try:
        source: Source = vars(importlib.import_module(f"foedus.data.sources.{module}"))[attribute]
    except ModuleNotFoundError as error:
        raise DataError(
            "extra_missing",
            f"`{name}` needs the package {error.name}, which is not installed.",
            f"It comes with the extra `{extra}`.",
            f"pip install 'foedus[{extra}]'",
        ) from error
    return source


def _natural(data: DataTable, found: Federation, seed: int) -> Federation:
    """Clients as the source has them; a share that is held out is whole clients, who then are in no round."""
    if data.partition is not None:
        raise DataError(
            "partition_refused",
            f"`{data.name}` has clients of its own here, and the run asks to divide it by `{data.partition.name}`.",
            "An example has one client.",
            "Leave out `[data] partition`, or `client`.",
        )
    if data.held_out == TEST and (found.held_out is None or not count(found.held_out)):
        raise _nothing_held_out(data, "It has no test part")
    if not isinstance(data.held_out, float):
        return found
    order = torch.randperm(len(found.names), generator=generator(seed, 0, "", "held_out"))
    cut = int(data.held_out * len(found.names))
    if not cut:
        raise _nothing_held_out(data, f"It has {len(found.names)} clients")
    parts = [found.clients[found.names[place]] for place in order[:cut].sort().values.tolist()]
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    left = order[cut:].sort().values.tolist()
    names = tuple(found.names[place] for place in left)
    return Federation(OnDemand(names, lambda place: found.clients[names[place]]), together)


def _nothing_held_out(data: DataTable, has: str) -> DataError:
    return DataError(
        "dataset_empty",
        f"The held-out part of `{data.name}` has no rows.",
        f"{has}, and `held_out` is {data.held_out}.",
        "Raise `held_out`, or leave it out.",
    )
