"""Data sets by name, and the federation of a run."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.catalogue import federate, held_out, load
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.run import RunSpec, parse_spec
from foedus.domain.tree import same


def test_unknown_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean `digits`") as refusal:
        load("digit", None)
    assert refusal.value.code == "dataset_unknown"


def test_the_held_out_part_belongs_to_nobody() -> None:
    columns = load("digits", None)
    rest, kept = held_out(columns, 0.2, 1)
    assert len(kept["label"]) == 359
    assert len(rest["label"]) == 1438
    together = torch.cat([rest["image"], kept["image"]])
    assert sorted(together.tolist()) == sorted(columns["image"].tolist())


def test_the_held_out_part_follows_the_seed() -> None:
    columns = load("wine", None)
    assert same(held_out(columns, 0.2, 1)[1], held_out(columns, 0.2, 1)[1])
    assert not same(held_out(columns, 0.2, 1)[1], held_out(columns, 0.2, 2)[1])


def test_digits_are_as_they_were_scanned() -> None:
    columns = load("digits", None)
    assert (columns["image"].dtype, columns["label"].dtype) == (torch.float32, torch.int64)
    assert (columns["image"].min(), columns["image"].max()) == (0, 16)


@pytest.mark.parametrize(("name", "rows"), [("digits", 1797), ("breast_cancer", 569), ("wine", 178)])
def test_bundled_data_sets_are_there(name: str, rows: int) -> None:
    assert len(load(name, None)["label"]) == rows


def _spec(**data: Any) -> RunSpec:
    table = {"name": "mnist", "partition": {"name": "iid", "clients": 3}, **data}
    return parse_spec({"plan": "p", "rounds": 1, "strategy": {"name": "fedavg"}, "cohort": {"size": 1}, "data": table})


def test_clients_and_the_held_out_part_are_the_whole_data_set() -> None:
    federation = federate(_spec(name="digits", held_out=0.2), Path())
    assert federation.held_out is not None
    parts = [federation.held_out, *federation.clients.values()]
    together = torch.cat([part["image"] for part in parts])
    assert sorted(together.tolist()) == sorted(load("digits", None)["image"].tolist())


def test_without_a_held_out_share_everything_is_the_clients() -> None:
    federation = federate(_spec(name="wine"), Path())
    assert federation.held_out is None
    assert sum(len(columns["label"]) for columns in federation.clients.values()) == 178


def test_a_held_out_part_of_nothing_is_refused_before_anything_runs() -> None:
    with pytest.raises(DataError) as refusal:
        federate(_spec(name="wine", held_out=0.001), Path())
    assert refusal.value.code == "dataset_empty"


def test_a_data_set_in_a_folder_is_found(data_folder: Path) -> None:
    federation = federate(_spec(folder=str(data_folder / "mnist")), Path())
    assert len(federation.clients) == 3
    assert federation.clients["c0000"]["image"].shape == (20000, 28, 28)


def test_a_data_set_that_is_not_there_says_where_its_files_go(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        federate(_spec(folder="data"), tmp_path)
    assert refusal.value.code == "dataset_missing"
    assert "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz are not in" in str(refusal.value)
    assert "[data] folder" in str(refusal.value)


def _idx(shape: Sequence[int], size: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape) + bytes(size)


IMAGES, MARKS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PACKED = gzip.compress(_idx((3, 2, 2), 12))


def test_idx_files_are_read_packed_and_unpacked(tmp_path: Path) -> None:
    (tmp_path / f"{IMAGES}.gz").write_bytes(PACKED)
    (tmp_path / MARKS).write_bytes(_idx((3,), 3))
    columns = load("mnist", tmp_path)
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
        load("mnist", tmp_path)
    assert refusal.value.code == code
