"""IDX files: packed or unpacked, whole or refused."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from foedus.data.catalogue import load
from foedus.data.sources.source import Pool
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.run import DataTable


def _idx(shape: Sequence[int], size: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape) + bytes(size)


def _load(folder: Path, **keys: object) -> Pool:
    found = load(DataTable.model_validate({"name": "mnist", "folder": str(folder), **keys}))
    assert isinstance(found, Pool)
    return found


IMAGES, MARKS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PACKED = gzip.compress(_idx((3, 2, 2), 12))


def test_idx_files_are_read_packed_and_unpacked(tmp_path: Path) -> None:
    (tmp_path / f"{IMAGES}.gz").write_bytes(PACKED)
    (tmp_path / MARKS).write_bytes(_idx((3,), 3))
    columns = _load(tmp_path).columns
    assert (columns["image"].shape, columns["image"].dtype) == ((3, 2, 2), torch.uint8)
    assert (columns["label"].shape, columns["label"].dtype) == ((3,), torch.int64)


BROKEN = {
    "not gzip": (f"{IMAGES}.gz", b"hello", "dataset_unreadable"),
    "gzip cut": (f"{IMAGES}.gz", PACKED[:-6], "dataset_unreadable"),
    "gzip damaged": (f"{IMAGES}.gz", PACKED[:12] + b"\xff\xff\xff" + PACKED[15:], "dataset_unreadable"),
    "empty": (IMAGES, b"", "dataset_unreadable"),
    "only a mark": (IMAGES, b"\0\0\x08", "dataset_unreadable"),
    "another rank": (IMAGES, _idx((12,), 12), "dataset_unreadable"),
    "sizes that lie": (IMAGES, _idx((65536, 65536, 65536), 12), "dataset_unreadable"),
    "fewer images than labels": (IMAGES, _idx((2, 2, 2), 8), "dataset_ragged"),
    "no images": (IMAGES, _idx((0, 2, 2), 0), "dataset_empty"),
}


@pytest.mark.parametrize(("name", "content", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_idx_files_that_are_broken_are_refused(name: str, content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / MARKS).write_bytes(_idx((3,), 3))
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == code


def test_the_test_part_is_read_where_it_is_wanted(tmp_path: Path) -> None:
    for stem, rows in (("train", 3), ("t10k", 2)):
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(_idx((rows, 2, 2), rows * 4))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(_idx((rows,), rows))
    assert _load(tmp_path).test is None
    both = _load(tmp_path, name="fashion_mnist", held_out="test")
    assert both.test is not None
    assert (len(both.columns["label"]), len(both.test["label"])) == (3, 2)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz") as refusal:
        _load(tmp_path, held_out="test")
    assert refusal.value.code == "dataset_missing"


def test_emnist_stores_columns_first(tmp_path: Path) -> None:
    content = _idx((1, 2, 3), 0) + bytes(range(6))
    (tmp_path / "emnist-letters-train-images-idx3-ubyte").write_bytes(content)
    (tmp_path / "emnist-letters-train-labels-idx1-ubyte").write_bytes(_idx((1,), 1))
    columns = _load(tmp_path, name="emnist", options={"split": "letters"}).columns
    assert torch.equal(columns["image"], torch.tensor([[[0, 3], [1, 4], [2, 5]]], dtype=torch.uint8))
    with pytest.raises(ConfigError, match="split"):
        _load(tmp_path, name="emnist", options={"split": "words"})


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foedus.data.sources.idx.IMAGES", 1000)
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(bytes(100_000)))
    (tmp_path / MARKS).write_bytes(_idx((3,), 3))
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == "dataset_too_large"
