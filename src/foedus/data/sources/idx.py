"""MNIST, Fashion-MNIST and EMNIST from the IDX files of their authors, packed or unpacked.

LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998; Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017
(https://arxiv.org/abs/1708.07747); Cohen, Afshar, Tapson and van Schaik, EMNIST, IJCNN 2017
(https://arxiv.org/abs/1702.05373).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foedus.data.dataset import Columns, check_columns
from foedus.data.sources.source import Pool, Request, Source, check_size, missing, required_folder, unreadable
from foedus.domain.table import Table

IMAGES = 2**30
"""Bytes of one unpacked IDX file at most (EMNIST's largest has 547 million)."""

STEMS = {"train": "train", "test": "t10k"}


class EmnistOptions(Table):
    """``split``: which of the six divisions of EMNIST."""

    split: Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"] = "balanced"


def read(request: Request) -> Pool:
    """The training part, and the files' own test part where it is wanted.

    ``image`` ``[n, 28, 28]`` uint8, ``label`` ``[n]`` int64.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_too_large``, ``dataset_ragged``.
    """
    return Pool(_part(request, "train"), _part(request, "test") if request.test else None)


def _part(request: Request, part: str) -> Columns:
    names = [f"{_stem(request, part)}-{what}" for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    wanted = f"Its files are: {', '.join(f'{name}.gz' for name in names)}, packed or unpacked."
    folder = required_folder(request, wanted)
    files = {name: _find(folder, name) for name in names}
    if absent := [f"{name}.gz" for name, file in files.items() if file is None]:
        raise missing(request.name, f"{' and '.join(absent)} in {folder}", wanted)
    images, labels = (_idx(file, rank) for file, rank in zip(files.values(), (3, 1), strict=True) if file)
    if request.name == "emnist":
        images = images.transpose(1, 2).contiguous()  # its authors stored columns first
    columns = {"image": images, "label": labels.long()}
    check_columns(columns)
    return columns


def _stem(request: Request, part: str) -> str:
    if isinstance(request.options, EmnistOptions):
        return f"emnist-{request.options.split}-{part}"
    return STEMS[part]


def _find(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _idx(file: Path, rank: int) -> Tensor:
    """The bytes in an IDX file: zero, zero, 8, the rank, the sizes as big-endian words, and the elements."""
    try:
        content = _content(file)
        shape = np.frombuffer(content, ">u4", count=rank, offset=4).tolist()
        body = np.frombuffer(content, np.uint8, offset=4 * (1 + rank))
        legal = content[:4] == bytes([0, 0, 8, rank]) and body.size == math.prod(shape)
    except (OSError, EOFError, ValueError, zlib.error):
        legal = False
    if not legal:
        raise unreadable(file, "It is not an IDX file of bytes.")
    return torch.from_numpy(body.reshape(shape).copy())


def _content(file: Path) -> bytes:
    if file.suffix != ".gz":
        check_size(file.stat().st_size, f"The file {file.name}", IMAGES)
        return file.read_bytes()
    with gzip.open(file) as packed:
        content = packed.read(IMAGES + 1)
    check_size(len(content), f"The file {file.name}, unpacked,", IMAGES)
    return content


SOURCE = Source(read)
EMNIST = Source(read, EmnistOptions)
