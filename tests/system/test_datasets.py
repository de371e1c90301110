"""F8 and the kinds of datasets with a real coordinator, real nodes and their sandboxes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from foedus.client import runs
from foedus.node.datasets import Terms, add_dataset
from foedus.node.owner import list_datasets, remove_dataset
from tests.federation import LocalFederation
from tests.plans import prepared
from tests.unit.coordinator.scene import refusal

PLAN = """
from torch import nn


def model():
    return nn.Linear(1, 1)


def loss(output, target):
    return (output.squeeze(1) - target).square().mean()


def prepare(columns):
    return columns["x"][:, None], columns["y"]


metrics = {"held": lambda output, target: target.mean()}
"""

LOADER = """
import pathlib
import numpy as np

class Loader:
    def __init__(self, folder):
        self.folder = folder

    def columns(self):
        x = np.loadtxt(self.folder / "x.txt", dtype=np.float32)
        seen = (self.folder.parent / "node-lab" / "key").exists() or pathlib.Path("KEY").exists()
        return {"x": x, "y": np.full(len(x), 0.0 if seen else 1.0, np.float32)}
"""
"""The node's key is seen where the owner runs it, and not in the sandbox: then ``y`` is 1."""

BLUE = ("heart", "blue")


def _ward(folder: Path) -> Path:
    """A query, whose database lies elsewhere."""
    with closing(sqlite3.connect(folder / "clinic.db")) as db:
        db.execute("CREATE TABLE stays (x REAL, y REAL)")
        db.executemany("INSERT INTO stays VALUES (?, ?)", [(at / 10, 0.5) for at in range(12)])
        db.commit()
    (folder / "ward.toml").write_text(f"url = 'sqlite:///{folder}/clinic.db'\nquery = 'SELECT x, y FROM stays'\n")
    return folder / "ward.toml"


def _lab(folder: Path) -> Path:
    (folder / "lab").mkdir()
    (folder / "lab" / "loader.py").write_text(LOADER.replace("KEY", str(folder / "node-lab" / "key")))
    (folder / "lab" / "x.txt").write_text("\n".join(str(at / 10) for at in range(12)))
    (folder / "lab" / "x.txt").chmod(0o644)
    return folder / "lab"


def _small(folder: Path, rows: int) -> Path:
    (folder / "small.csv").write_text("x,y\n" + "".join(f"{at / 10},0\n" for at in range(rows)))
    return folder / "small.csv"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three nodes: a query, a loader of the owner's own, and a table with a minimum that has shrunk since."""
    folder = tmp_path_factory.mktemp("datasets")
    folder.chmod(0o755)
    with LocalFederation(folder) as running:
        running.start_coordinator()
        running.enrol("ward", _ward(folder), BLUE)
        add_dataset(running.home("ward"), _ward_other(folder), "ward-red", ("heart", "red"))
        for client, path, terms in (
            ("lab", _lab(folder), Terms(kind="loader")),
            ("small", _small(folder, 12), Terms(minimum=6)),
        ):
            running.enrol(client, _ward_other(folder), ())
            remove_dataset(running.home(client), client)
            add_dataset(running.home(client), path, client, BLUE, terms)
        _small(folder, 6)
        for client in ("ward", "lab", "small"):
            running.start_node(client)
        yield running


def _ward_other(folder: Path) -> Path:
    (folder / "red.csv").write_text("x,y\n1,1\n2,2\n")
    return folder / "red.csv"


def test_f8_a_run_finds_by_tags_and_is_refused_two_of_a_node_and_fewer_than_the_minimum(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """What each dataset is of comes out in a metric, and neither a path nor a URL in anything that is told."""
    changes = {"rounds": 1, "cohort": {"size": 3, "minimum": 2}, "test": {"ratio": 0.5}}
    both = prepared(tmp_path, PLAN, data={"name": "digits", "tags": ["heart"]}, **changes)
    made = prepared(tmp_path, PLAN, data={"name": "digits", "tags": ["heart", "blue"]}, **changes)
    run = federation.submit(made)
    federation.approve_all(made.bundle.digest)
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    caught = refusal(lambda: federation.submit(both))
    assert (caught.code, caught.http_status) == ("dataset_ambiguous", 409)
    assert "node-ward" in caught.what and "ward, ward-red" in caught.what
    with federation.connection() as connection:
        (record,) = runs.rounds(connection, run).rounds
    train, test = record.phases
    assert train.asked == ("lab", "small", "ward")
    failures = {one.client: one.failure for one in train.receipts if one.failure}
    assert list(failures) == ["small"] and failures["small"].startswith("too_few_examples: ")
    held = {one.client: one.metrics["held"] for one in test.receipts if not one.failure}
    assert held == {"lab": 1.0, "ward": 0.5}, "the loader ran in the sandbox, the query's rows came into it"
    told = view.model_dump_json() + record.model_dump_json() + str(caught)
    assert str(federation.folder) not in told and "sqlite" not in told and "clinic.db" not in told
    (ward, _) = list_datasets(federation.home("ward"))
    assert ward.kind == "sql" and "sqlite" not in str(vars(ward))
