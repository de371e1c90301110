"""Data sets by name, and the federation of a run."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.catalogue import SOURCES, federate, held_out, load
from foedus.data.dataset import Columns
from foedus.data.sources.source import Pool
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.run import DataTable, RunSpec, parse_spec
from foedus.domain.tree import same


def _pool(name: str, **keys: Any) -> Columns:
    found = load(DataTable.model_validate({"name": name, **keys}))
    assert isinstance(found, Pool)
    return found.columns


def test_unknown_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean `digits`") as refusal:
        load(DataTable(name="digit"))
    assert refusal.value.code == "dataset_unknown"


def test_the_held_out_part_belongs_to_nobody() -> None:
    columns = _pool("digits")
    rest, kept = held_out(columns, 0.2, 1)
    assert len(kept["label"]) == 359
    assert len(rest["label"]) == 1438
    together = torch.cat([rest["image"], kept["image"]])
    assert sorted(together.tolist()) == sorted(columns["image"].tolist())


def test_the_held_out_part_follows_the_seed() -> None:
    columns = _pool("wine")
    assert same(held_out(columns, 0.2, 1)[1], held_out(columns, 0.2, 1)[1])
    assert not same(held_out(columns, 0.2, 1)[1], held_out(columns, 0.2, 2)[1])


def test_digits_are_as_they_were_scanned() -> None:
    columns = _pool("digits")
    assert (columns["image"].dtype, columns["label"].dtype) == (torch.float32, torch.int64)
    assert (columns["image"].min(), columns["image"].max()) == (0, 16)


@pytest.mark.parametrize(("name", "rows"), [("digits", 1797), ("breast_cancer", 569), ("wine", 178), ("diabetes", 442)])
def test_bundled_data_sets_are_there(name: str, rows: int) -> None:
    assert len(_pool(name)["label"]) == rows


def _spec(**data: Any) -> RunSpec:
    table = {"name": "mnist", "partition": {"name": "iid", "clients": 3}, **data}
    return parse_spec({"plan": "p", "rounds": 1, "strategy": {"name": "fedavg"}, "cohort": {"size": 1}, "data": table})


def test_clients_and_the_held_out_part_are_the_whole_data_set() -> None:
    federation = federate(_spec(name="digits", held_out=0.2), Path())
    assert federation.held_out is not None
    parts = [federation.held_out, *federation.clients.values()]
    together = torch.cat([part["image"] for part in parts])
    assert sorted(together.tolist()) == sorted(_pool("digits")["image"].tolist())


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
    assert "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, packed or unpacked" in str(refusal.value)


def test_a_data_set_s_own_test_part_may_be_what_is_held_out(data_folder: Path) -> None:
    federation = federate(_spec(folder=str(data_folder / "mnist"), held_out="test"), Path())
    assert federation.held_out is not None
    assert federation.held_out["image"].shape == (10_000, 28, 28)
    assert sum(len(columns["label"]) for columns in federation.clients.values()) == 60_000


def test_a_data_set_without_a_test_part_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        federate(_spec(name="digits", held_out="test"), Path())
    assert refusal.value.code == "dataset_empty"
    with sqlite3.connect(tmp_path / "t.sqlite") as database:
        database.execute("CREATE TABLE t (user TEXT, x REAL)")
        database.execute("CREATE INDEX by_user ON t (user)")
    database.close()
    keys = {"file": "t.sqlite", "client": "user", "options": {"table": "t"}, "partition": None}
    with pytest.raises(DataError) as refusal:
        federate(_spec(name="sqlite", held_out="test", **keys), tmp_path)
    assert refusal.value.code == "dataset_empty"


def test_the_bundled_data_sets_are_scikit_learns() -> None:
    sets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    for name in ("digits", "breast_cancer", "wine", "diabetes"):
        bunch, columns = getattr(sets, f"load_{name}")(), _pool(name)
        features = next(column for key, column in columns.items() if key != "label")
        assert torch.equal(features, torch.from_numpy(bunch.data).float())
        assert torch.equal(columns["label"].double(), torch.from_numpy(bunch.target).double().float().double())
    assert _pool("diabetes")["label"].dtype == torch.float32


def test_an_option_that_a_source_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean `clients`"):
        load(DataTable(name="synthetic", options={"client": 3}))
    with pytest.raises(ConfigError, match=r"options of digits is refused"):
        load(DataTable(name="digits", options={"split": "x"}))


def test_a_pool_needs_a_partition_and_clients_of_their_own_need_none() -> None:
    with pytest.raises(DataError) as refusal:
        federate(_spec(name="digits", partition=None), Path())
    assert refusal.value.code == "partition_missing"
    with pytest.raises(DataError) as refusal:
        federate(_spec(name="synthetic"), Path())
    assert refusal.value.code == "partition_refused"


def test_a_share_of_clients_of_their_own_is_held_out_whole() -> None:
    options = {"clients": 50, "examples": 4}
    federation = federate(_spec(name="synthetic", partition=None, options=options, held_out=0.2), Path())
    assert federation.held_out is not None
    assert (len(federation.names), len(federation.held_out["label"])) == (40, 40)
    whole = federate(_spec(name="synthetic", partition=None, options=options), Path())
    left = [whole.clients[name] for name in whole.names if name not in federation.names]
    assert torch.equal(torch.cat([columns["features"] for columns in left]), federation.held_out["features"])
    assert all(same(federation.clients[name], whole.clients[name]) for name in federation.names)
    with pytest.raises(DataError) as refusal:
        federate(_spec(name="synthetic", partition=None, options=options, held_out=0.01), Path())
    assert refusal.value.code == "dataset_empty"


def test_a_source_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "foedus.data.sources.columnar", raising=False)
    with pytest.raises(DataError, match=r"pip install 'foedus\[parquet\]'") as refusal:
        load(DataTable(name="parquet", file="x.parquet"))
    assert refusal.value.code == "extra_missing"


def test_naming_one_source_imports_no_other() -> None:
    code = (
        "import sys; from foedus.data.catalogue import load; from foedus.domain.run import DataTable;"
        "load(DataTable(name='digits'));"
        "print(sorted({'sklearn', 'scipy', 'PIL', 'pyarrow', 'datasets', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_source_s_extra_is_one_of_the_project_s() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert {extra for _, _, extra in SOURCES.values() if extra} <= set(project["optional-dependencies"])
