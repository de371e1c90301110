"""A folder with a file for each client, and the loading plans beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.data.catalogue import federate, load
from foedus.data.files import write_columns
from foedus.data.population import Federation
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.run import DataTable
from tests.plans import spec

PLAN = 'name = "north"\nfile = { delimiter = ";" }\n[columns]\nage = { from = "Alter", missing = "mean" }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "north.csv").write_text("Alter\n30\n?\n50\n")
    (tmp_path / "north.toml").write_text(PLAN)
    (tmp_path / "south.csv").write_text("age\n20\n")
    write_columns(tmp_path / "east.npz", {"age": torch.tensor([70.0, 80.0])})
    (tmp_path / "README.md").write_text("nothing of anybody's")
    return tmp_path


def _read(folder: Path, clients: list[str] | None = None) -> dict[str, list[float]]:
    found = load(DataTable(name="sites", folder=str(folder), options={"clients": clients or []}))
    assert isinstance(found, Federation)
    return {name: found.clients[name]["age"].tolist() for name in found.names}


def test_each_file_is_a_client_and_is_read_by_the_loading_plan_beside_it(folder: Path) -> None:
    assert _read(folder) == {"east": [70, 80], "north": [30, 40, 50], "south": [20]}


def test_some_of_them(folder: Path) -> None:
    assert _read(folder, ["south", "north"]) == {"north": [30, 40, 50], "south": [20]}
    with pytest.raises(DataError, match="Did you mean `north`") as refused:
        _read(folder, ["nort"])
    assert refused.value.code == "site_unknown"


def test_a_folder_without_files_and_a_plan_that_is_none_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(DataError) as missing:
            _read(tmp_path / place)
        assert missing.value.code == "dataset_missing"
    (folder / "south.toml").write_text("colums = 1")
    with pytest.raises(ConfigError, match="colums"):
        _read(folder)


def test_it_reads_what_data_partition_writes(tmp_path: Path) -> None:
    digits = federate(spec(), tmp_path)
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in digits.names:
        write_columns(parts / f"{name}.npz", digits.clients[name])
    assert digits.held_out is not None
    write_columns(parts / "held_out.npz", digits.held_out)
    found = federate(spec(data={"name": "sites", "folder": "parts", "held_out": "test"}), tmp_path)
    assert list(found.names) == list(digits.names)
    assert found.held_out is not None
    assert found.held_out.keys() == digits.held_out.keys()
    for name in digits.names:
        assert all(torch.equal(found.clients[name][key], digits.clients[name][key]) for key in digits.clients[name])
