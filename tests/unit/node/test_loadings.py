"""Loading plans on a node: kept by name, never changed under it, told to the work process, named in what is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.data.loading_plan import LoadingPlan, digest, read_loading_plan
from foedus.domain.errors import ConfigError, ConflictError, DataError, NotFoundError
from foedus.domain.table import validate
from foedus.node import loadings
from foedus.node.datasets import Terms, add_dataset
from foedus.node.frames import HEAD, Order, pack, parse
from foedus.node.owner import init, list_datasets, remove_dataset
from foedus.node.session import Session
from foedus.node.vault import Vault
from tests.unit.node.support import Desk, assignment, broken, truth

TEXT = 'name = "clinic"\n[columns]\nage = { from = "Alter", missing = "mean" }\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init(tmp_path / "home", "clinic-a")
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "clinic.toml").write_text(TEXT)
    return tmp_path / "clinic.toml"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("Alter\n30\n?\n50\n")
    return tmp_path / "rows.csv"


def test_a_plan_is_kept_by_its_name_and_stays_what_it_was(home: Path, file: Path) -> None:
    plan = read_loading_plan(file)
    kept = loadings.keep(home, plan)
    assert (kept.name, kept.digest, kept.plan) == ("clinic", digest(plan), plan)
    assert loadings.keep(home, plan) == kept, "the same plan twice is one"
    assert loadings.chosen(home, "clinic") == loadings.chosen(home, str(file)) == kept
    file.write_text(TEXT.replace("mean", "median"))
    with pytest.raises(ConflictError) as refused:
        loadings.chosen(home, str(file))
    assert refused.value.code == "loading_exists"
    assert loadings.listed(home) == (kept,)
    with Vault(home) as vault:
        assert [(line.event, line.subject) for line in vault.audit()][1:] == [("loading_added", "clinic")]


def test_what_is_not_there_is_told_with_what_is(home: Path, file: Path) -> None:
    loadings.chosen(home, str(file))
    with pytest.raises(NotFoundError, match="Did you mean `clinic`") as refused:
        loadings.show(home, "clinik")
    assert refused.value.code == "loading_unknown"
    with pytest.raises(ConfigError):
        loadings.show(home, "../clinic")


def test_a_dataset_is_read_by_its_plan_which_then_stays(home: Path, file: Path, rows: Path) -> None:
    added = add_dataset(home, rows, "clinic", ["heart"], Terms(loading=str(file)))
    assert (added.examples, added.columns, added.loading) == (3, ("age",), "clinic")
    assert list_datasets(home) == (added,)
    with pytest.raises(ConflictError) as refused:
        loadings.forget(home, "clinic")
    assert refused.value.code == "loading_used"
    assert loadings.show(home, "clinic").datasets == ("clinic",)
    remove_dataset(home, "clinic")
    loadings.forget(home, "clinic")
    assert loadings.listed(home) == ()
    with pytest.raises(NotFoundError):
        loadings.forget(home, "clinic")


def test_a_file_that_its_plan_does_not_fit_is_refused_without_a_value(home: Path, file: Path, rows: Path) -> None:
    rows.write_text("Alter\nsecret-30\n")
    with pytest.raises(DataError) as refused:
        add_dataset(home, rows, "clinic", [], Terms(loading=str(file)))
    assert refused.value.code == "dataset_not_numeric"
    assert "secret" not in str(refused.value)
    assert list_datasets(home) == ()


def test_a_node_keeps_so_many_plans_and_no_more(home: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadings, "LIMIT", 1)
    plan = read_loading_plan(file)
    loadings.keep(home, plan)
    with pytest.raises(ConflictError) as refused:
        loadings.keep(home, plan.model_copy(update={"name": "other"}))
    assert refused.value.code == "too_many_loadings"
    assert loadings.keep(home, plan).name == "clinic", "what is kept may be named again"


def test_the_work_process_reads_by_the_plan(tmp_path: Path) -> None:
    """A table of the same values, coded in a way of its owner's, gives the update that the plain one gives."""
    body = "c = arguments[0]; import torch; return torch.stack([c[n] for n in 'abcd'], 1), c['ill'].long()"
    desk, known = Desk(tmp_path / "desk", broken("prepare", body)), truth()
    values = [[float(row + at) / 8 for at in range(4)] for row in range(20)]
    plain, coded = desk.folder / "plain.csv", desk.folder / "coded.data"
    plain.write_text("a,b,c,d,ill\n" + "".join(f"{','.join(map(str, row))},{int(row[0] > 1)}\n" for row in values))
    lines = [";".join([*(str(value * 8) for value in row), "ja" if row[0] > 1 else "nein"]) for row in values]
    coded.write_text("\n".join([*lines, "-9;1;1;1;ja"]))
    columns = {
        name: {"from": str(at), "scale": 0.125, "low": 0.0, "missing": "drop"} for at, name in enumerate("abcd", 1)
    }
    columns["ill"] = {"from": "5", "classes": {"ja": 1.0, "nein": 0.0}}
    table = {"name": "clinic", "file": {"header": False, "delimiter": ";"}, "columns": columns}
    content = validate(LoadingPlan, table, "test").model_dump(mode="json", by_alias=True)
    made = []
    for changed in ({"dataset": str(plain)}, {"dataset": str(coded), "loading": content}):
        order = desk.order(known.model).model_copy(update=changed)
        told = parse(pack(order)[HEAD.size :])
        assert isinstance(told, Order)
        made.append(Session(desk.bundle, assignment(desk.bundle)).work(told, lambda: None))
    assert made[0].update == made[1].update
    assert made[0].done.weights == {"examples": 16.0}
