"""Data sets by name, and the federation that a run simulates: clients, and a held-out part that belongs to nobody."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

from foedus.data.dataset import Columns, check_columns
from foedus.data.partition import partition
from foedus.data.population import Federation, divided, take
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.rng import generator
from foedus.domain.run import RunSpec
from foedus.domain.table import nearest

LABEL = "label"


def federate(spec: RunSpec, base: Path) -> Federation:
    """Load the run's data set, cut the held-out part, and divide the rest; ``folder`` is relative to ``base``.

    Raises:
        ConfigError: ``dataset_unknown``, and as :func:`foedus.data.partition.partition`.
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_empty``, ``dataset_ragged``,
            ``partition_too_thin``.
    """
    columns = load(spec.data.name, base / spec.data.folder if spec.data.folder else None)
    rest, kept = held_out(columns, spec.data.held_out, spec.seed) if spec.data.held_out else (columns, None)
    if kept is not None and not len(kept[LABEL]):
        raise DataError(
            "dataset_empty",
            f"The held-out part of `{spec.data.name}` has no rows.",
            f"It has {len(columns[LABEL])} examples, and `held_out` is {spec.data.held_out}.",
            "Raise `held_out`, or leave it out.",
        )
    return Federation(divided(rest, partition(rest[LABEL], spec.data.partition, spec.seed)), kept)


def load(name: str, folder: Path | None) -> Columns:
    """The columns of a data set; bundled ones need no folder.

    Raises:
        ConfigError: ``dataset_unknown``.
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_empty``, ``dataset_ragged``.
    """
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
    stems = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    found = [file for stem in stems if folder for file in (folder / stem, folder / f"{stem}.gz") if file.is_file()]
    files = {file.name.removesuffix(".gz"): file for file in found}
    if missing := [f"{stem}.gz" for stem in stems if stem not in files]:
        raise DataError(
            "dataset_missing",
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in {folder or 'any folder'}.",
            "MNIST is not bundled; its IDX files, packed or unpacked, are read from the folder that `[data] folder` "
            "names.",
            "Put the files there, or use `digits`, which is bundled.",
        )
    columns = {"image": _idx(files[stems[0]], 3), LABEL: _idx(files[stems[1]], 1).long()}
    check_columns(columns)
    return columns


def _idx(file: Path, rank: int) -> Tensor:
    """The bytes in an IDX file: zero, zero, 8, the rank, the sizes as big-endian words, and the elements."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        shape = np.frombuffer(content, ">u4", count=rank, offset=4).tolist()
        body = np.frombuffer(content, np.uint8, offset=4 * (1 + rank))
        legal = content[:4] == bytes([0, 0, 8, rank]) and body.size == math.prod(shape)
    except (OSError, EOFError, ValueError, zlib.error):
        legal = False
    if not legal:
        raise DataError(
            "dataset_unreadable", f"The file {file.name} is not an IDX file of bytes.", "", "Fetch that file again."
        )
    return torch.from_numpy(body.reshape(shape).copy())


LOADERS: Mapping[str, Callable[[Path | None], Columns]] = {
    "digits": _digits,
    "breast_cancer": _tabular(datasets.load_breast_cancer),
    "wine": _tabular(datasets.load_wine),
    "mnist": _mnist,
}
