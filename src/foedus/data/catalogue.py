"""Data sets by name, and the federation that a run simulates: clients, and a held-out part that belongs to nobody."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

from foedus.data.dataset import Columns
from foedus.data.partition import partition
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.rng import generator
from foedus.domain.run import RunSpec, nearest

LABEL = "label"


@dataclass(frozen=True)
class Parts(Mapping[str, Columns]):
    """Clients by name; a client's columns are gathered when they are asked for."""

    columns: Columns
    index: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Columns:
        return take(self.columns, self.index[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Federation:
    """The clients' columns by name, and the held-out columns."""

    clients: Mapping[str, Columns]
    held_out: Columns | None


def federate(spec: RunSpec, base: Path) -> Federation:
    """Load the run's data set, cut the held-out part, and divide the rest; ``folder`` is relative to ``base``.

    Raises:
        ConfigError: ``dataset_unknown``, and as :func:`foedus.data.partition.partition`.
        DataError: ``dataset_missing``, ``partition_too_thin``.
    """
    columns = load(spec.data.name, base / spec.data.folder if spec.data.folder else None)
    rest, kept = held_out(columns, spec.data.held_out, spec.seed) if spec.data.held_out else (columns, None)
    return Federation(Parts(rest, partition(rest[LABEL], spec.data.partition, spec.seed)), kept)


def load(name: str, folder: Path | None) -> Columns:
    """The columns of a data set; bundled ones need no folder."""
    if name not in LOADERS:
        raise ConfigError(
            "dataset_unknown",
            f"There is no data set `{name}`.{nearest(name, LOADERS)}",
            f"There are: {', '.join(sorted(LOADERS))}.",
        )
    return LOADERS[name](folder)


def held_out(columns: Columns, share: float, seed: int) -> tuple[Columns, Columns]:
    """The columns without ``floor(share * n)`` examples, and those examples, by a permutation from the seed."""
    count = len(columns[LABEL])
    order = torch.randperm(count, generator=generator(seed, 0, "", "held_out"))
    kept = int(share * count)
    return take(columns, order[kept:].sort().values), take(columns, order[:kept].sort().values)


def take(columns: Columns, index: Tensor) -> Columns:
    """The rows at ``index`` ``[k]``."""
    return {name: column[index] for name, column in columns.items()}


def _digits(folder: Path | None) -> Columns:
    bunch = datasets.load_digits()
    return {"image": torch.from_numpy(bunch.data.astype(np.float32)), LABEL: torch.from_numpy(bunch.target).long()}


def _tabular(loader: Callable[[], object]) -> Callable[[Path | None], Columns]:
    def load_table(folder: Path | None) -> Columns:
        bunch: object = loader()
        features, target = np.asarray(bunch["data"]), np.asarray(bunch["target"])  # type: ignore[index]
        return {"features": torch.from_numpy(features.astype(np.float32)), LABEL: torch.from_numpy(target).long()}

    return load_table


def _mnist(folder: Path | None) -> Columns:
    """The 60,000 training images of MNIST: ``image`` ``[n, 28, 28]`` uint8, from the IDX files in ``folder``."""
    images = _idx(folder, "train-images-idx3-ubyte")
    return {"image": images, LABEL: _idx(folder, "train-labels-idx1-ubyte").long()}


def _idx(folder: Path | None, stem: str) -> Tensor:
    files = [folder / stem, folder / f"{stem}.gz"] if folder else []
    for file in files:
        if file.is_file():
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            break
    else:
        raise DataError(
            "dataset_missing",
            f"The file {stem}(.gz) is not in {folder or 'any folder'}.",
            "This data set is not bundled; its IDX files have to be in the folder that `[data] folder` names.",
            "Put them there (MNIST: yann.lecun.com/exdb/mnist), or use `digits`, which is bundled.",
        )
    dimensions = content[3] if len(content) > 4 else 0
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if content[:3] != b"\0\0\x08" or body.size != shape.prod():
        raise DataError("dataset_unreadable", f"The file {file.name} is not an IDX file of bytes.")
    return torch.from_numpy(body.reshape(shape.tolist()).copy())


LOADERS: Mapping[str, Callable[[Path | None], Columns]] = {
    "digits": _digits,
    "breast_cancer": _tabular(datasets.load_breast_cancer),
    "wine": _tabular(datasets.load_wine),
    "mnist": _mnist,
}
