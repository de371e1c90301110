"""H14 in simulation: sites whose tables differ, read alike before round 1, and a model that is built for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import foedus
from foedus.data.align import Alignment, schema_of
from foedus.data.loading_plan import read_loading_plan
from foedus.domain.errors import FoedusError, PlanError
from foedus.domain.plan import PlanBundle
from foedus.engine.choice import Engine
from foedus.engine.keeping import Keeping
from foedus.engine.prepare import Prepared, prepare_spec
from foedus.engine.results import Outcome, begin_folder, close_folder
from foedus.engine.resume import take_up
from foedus.engine.simulate import client_data, simulate
from foedus.local.kinds import load_plan
from foedus.local.plan import TrainingPlan
from tests.plans import prepared, table

PLAN = """
import torch
from torch import nn


def model(schema):
    width = sum(schema["classes"].get(name, 1) for name in schema["inputs"])
    return nn.Linear(width, 2)


def loss(output, target):
    return nn.functional.cross_entropy(output, target)


def prepare(columns, schema):
    parts = []
    for name in schema["inputs"]:
        classes = schema["classes"].get(name)
        one = nn.functional.one_hot(columns[name], classes) if classes else columns[name][:, None] / 100
        parts.append(one.float())
    return torch.cat(parts, 1), columns[schema["label"]].to(torch.int64)


metrics = {"accuracy": lambda output, target: (output.argmax(1) == target).float().mean()}
"""

FUNCTIONS = """
import numpy as np

def _width(options):
    schema = options["schema"]
    return sum(schema["classes"].get(name, 1) for name in schema["inputs"])

def initial(seed, options): return {"w": np.zeros(_width(options), np.float32)}
def fit(model, columns, call): return {"model": {"w": model["w"] + len(call.options["schema"]["inputs"])}, "loss": 1}
def evaluate(model, columns, options): return {"loss": len(options["schema"]["inputs"])}
"""

CLINIC = "age,ward,smoker,label\n" + "61,north,yes,1\n48,south,no,0\n" * 3
HOSPICE = "label,ward,weight,age,foedus_part\n" + "0,west,70.5,44,0\n1,?,80,52,1\n" * 3
WARD = "Alter;Gewicht;label\n" + "33;70000;1\n71;81000;0\n" * 3
WARD_PLAN = """
name = "ward-7"
file = { delimiter = ";" }
[columns]
age = { from = "Alter" }
weight = { from = "Gewicht", scale = 0.001 }
label = {}
"""
STAYS = """
name = "stays"
[columns]
age = { missing = "mean" }
label = {}
smoker = { classes = { no = 0, yes = 1 }, absent = "missing", missing = 2, type = "int64" }
"""
UNITED = {"label": "label", "inputs": ["age", "smoker", "ward", "weight"], "classes": {"smoker": 3, "ward": 4}}


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    folder = tmp_path / "sites"
    folder.mkdir()
    (folder / "clinic.csv").write_text(CLINIC)
    (folder / "hospice.csv").write_text(HOSPICE)
    (folder / "ward-7.csv").write_text(WARD)
    (folder / "ward-7.toml").write_text(WARD_PLAN)
    (folder / "held_out.csv").write_text("ward,label\nnorth,1\nisland,0\n")
    return folder


def ready(sites: Path, align: dict[str, Any], plan: str = PLAN, **changes: Any) -> Prepared:
    data = {"name": "sites", "folder": str(sites), "align": align, **changes.pop("data", {})}
    return prepared(sites.parent, plan, data=data, cohort={"size": 3}, test={"ratio": 0.5}, **changes)


def inputs(run: Prepared) -> dict[str, torch.Tensor]:
    """Of each client what it is trained on and tested on, ``[n, width]``."""
    found = {}
    for name, data in client_data(run).items():
        assert isinstance(data.train.inputs, torch.Tensor) and isinstance(data.test.inputs, torch.Tensor)
        found[name] = torch.cat([data.train.inputs, data.test.inputs])
    return found


def test_h14_sites_that_differ_are_read_alike_before_round_1_and_the_model_is_built_for_it(sites: Path) -> None:
    run = ready(sites, {}, data={"held_out": "test"})
    assert run.alignment is not None and schema_of(run.alignment) == UNITED
    assert run.model["weight"].shape == (2, 9)
    found = inputs(run)
    assert {name: each.shape for name, each in found.items()} == dict.fromkeys(["clinic", "hospice", "ward-7"], (6, 9))
    assert found["clinic"][:, 8].eq(0).all() and found["hospice"][:, 8].gt(0).all(), "a number that is absent is 0"
    assert found["ward-7"][:, 1:8].tolist() == [[0, 0, 1, 0, 0, 0, 1]] * 6, "absent classes have their own number"
    assert sorted(set(found["ward-7"][:, 8].tolist())) == pytest.approx([0.7, 0.81]), "the owner's plan reads first"
    hospice = client_data(run)["hospice"]
    assert (hospice.given, len(hospice.train), len(hospice.test)) == (True, 3, 3), "the owner's split stays"
    assert isinstance(hospice.test.inputs, torch.Tensor)
    assert hospice.test.inputs[:, 4:8].tolist() == [[0, 0, 0, 1]] * 3, "what is missing has its own number"


def test_the_same_bytes_twice_and_on_workers_and_the_held_out_table_is_read_alike(sites: Path) -> None:
    runs = [
        simulate(ready(sites, {}, data={"held_out": "test"}), Engine("eager", *executor))
        for executor in (("inline",), ("inline",), ("workers", 2))
    ]
    assert len({result.model_digest for result in runs}) == 1
    assert runs[0].held_out == runs[2].held_out and "accuracy" in runs[0].held_out
    assert not torch.equal(runs[0].model["weight"], ready(sites, {}).model["weight"])


def test_the_graph_kernel_takes_it_too(sites: Path) -> None:
    eager, graph = (simulate(ready(sites, {}), Engine(kernel, "inline")).model for kernel in ("eager", "graph"))
    assert torch.allclose(eager["weight"], graph["weight"], atol=1e-5)


def test_by_one_client_classes_that_it_has_not_are_as_one_that_is_missing(sites: Path) -> None:
    run = ready(sites, {"client": "clinic"})
    assert run.model["weight"].shape == (2, 1 + 3 + 3)
    assert inputs(run)["hospice"][:, 4:].tolist() == [[0, 0, 1]] * 6


def test_clients_are_those_of_the_simulation_however_many_are_asked_live(sites: Path) -> None:
    assert ready(sites, {"clients": 1}).alignment == ready(sites, {}).alignment
    some = ready(sites, {}, data={"options": {"clients": ["clinic", "ward-7"]}})
    assert some.model["weight"].shape == (2, 1 + 3 + 3 + 1)


def test_by_a_loading_plan_of_the_researchers_no_site_is_read(sites: Path) -> None:
    (sites.parent / "stays.toml").write_text(STAYS)
    run = ready(sites, {"loading": "stays.toml"}, data={"folder": "nowhere", "tags": ["stays"]})
    assert run.alignment == Alignment(label="label", plan=read_loading_plan(sites.parent / "stays.toml"))
    there = ready(sites, {"loading": "stays.toml"})
    assert {each.shape for each in inputs(there).values()} == {(6, 4)}
    assert inputs(there)["ward-7"][:, 1:].tolist() == [[0, 0, 1]] * 6


def test_an_alignment_that_is_given_is_taken_and_no_site_is_read(sites: Path) -> None:
    first = ready(sites, {"client": "clinic"})
    nowhere = first.spec.data.model_copy(update={"folder": "nowhere", "name": "digits"})
    again = prepare_spec(first.spec.model_copy(update={"data": nowhere}), first.base, first.alignment)
    assert again.alignment == first.alignment
    assert torch.equal(again.model["weight"], first.model["weight"])


def test_functions_are_given_the_schema_as_an_option(sites: Path) -> None:
    run = ready(sites, {}, FUNCTIONS, strategy={"name": "fedavg"})
    result = simulate(run, Engine("eager", "inline"))
    assert run.model["w"].shape == (9,) and result.model["w"].tolist() == [8.0] * 9
    assert result.rounds[0].metrics["test/loss"] == 4


@pytest.mark.parametrize(
    ("align", "data", "code", "says"),
    [
        ({"client": "clinik"}, {}, "site_unknown", "Did you mean `clinic`"),
        ({}, {"label": "outcome"}, "align_refused", "`outcome`"),
        ({}, {"name": "digits"}, "align_refused", "tables of `sites`"),
        ({"loading": "gone.toml"}, {}, "config_missing", "gone.toml"),
        ({"client": "clinic", "clients": 2}, {}, "config_refused", "give one of"),
    ],
)
def test_what_cannot_be_aligned_is_refused_before_round_1(
    sites: Path, align: dict[str, Any], data: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(FoedusError) as refused:
        ready(sites, align, data=data)
    assert refused.value.code == code
    assert says in f"{refused.value} {refused.value.why}"


def test_numbers_at_one_site_and_classes_at_another_are_refused(sites: Path) -> None:
    (sites / "clinic.csv").write_text(CLINIC.replace("north", "1").replace("south", "2"))
    with pytest.raises(FoedusError, match="`ward` is numbers at one site") as refused:
        ready(sites, {})
    assert refused.value.code == "align_refused"


def test_a_loading_plan_does_not_align_what_is_no_site(sites: Path) -> None:
    (sites.parent / "stays.toml").write_text('name = "stays"\n[columns]\nage = {}\nlabel = {}\n')
    run = ready(sites, {"loading": "stays.toml"}, data={"name": "digits", "folder": None})
    with pytest.raises(FoedusError) as refused:
        simulate(run, Engine("eager", "inline"))
    assert refused.value.code == "align_refused"


def test_a_plan_that_wants_the_schema_needs_a_run_that_aligns(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refused:
        prepared(tmp_path, PLAN)
    assert refused.value.code == "plan_wants_schema"


def test_a_plan_that_wants_no_schema_is_called_as_ever(sites: Path) -> None:
    plain = PLAN.replace("def model(schema):", "def model():").replace("nn.Linear(width, 2)", "nn.Linear(1, 2)")
    plain = plain.replace('    width = sum(schema["classes"].get(name, 1) for name in schema["inputs"])\n', "")
    plain = plain.replace("prepare(columns, schema)", 'prepare(columns, schema={"label": "label"})')
    plain = plain.replace('schema["inputs"]', '["age"]').replace('schema["classes"].get(name)', "None")
    assert {each.shape for each in inputs(ready(sites, {}, plain)).values()} == {(6, 1)}


def test_a_run_that_goes_on_has_tables_read_as_it_began_whatever_is_in_them_by_now(sites: Path, tmp_path: Path) -> None:
    run, out = ready(sites, {}, checkpoint={"every": 1}), tmp_path / "out"
    folder = begin_folder(run, "stays", out, Engine())
    result = simulate(run, Engine("eager", "inline"), [folder], Keeping(folder, run.spec.checkpoint))
    close_folder(folder, run.spec, Outcome("stays", "completed", result.model_digest, 1.0))
    (sites / "clinic.csv").write_text(CLINIC.replace("north", "abbey"))
    assert ready(sites, {}).alignment != run.alignment
    taken = take_up(out, {"rounds": "3"}, Engine())
    assert taken.prepared.alignment == run.alignment
    assert inputs(taken.prepared)["clinic"][:, 4:8].sum(0).tolist() == [0, 3, 0, 3], "what it had not is as missing"
    close_folder(taken.folder, run.spec, Outcome("stays", "interrupted", "", 1.0))
    for change in (lambda file: file.write_bytes(file.read_bytes().replace(b"north", b"abbey")), Path.unlink):
        change(out / "alignment.json")
        with pytest.raises(FoedusError) as refused:
            take_up(out, {"rounds": "3"}, Engine())
        assert refused.value.code == "run_changed"


def test_from_python_tables_are_aligned_and_data_given_as_objects_are_not(sites: Path) -> None:
    file = load_plan(PlanBundle({"plan.py": PLAN.encode()}, "plan.py"))
    assert isinstance(file, TrainingPlan)
    plan = foedus.plan(file.model, file.loss, file.prepare, file.metrics)
    run = table(data={"name": "sites", "folder": str(sites), "align": {}}, cohort={"size": 3})
    how: dict[str, Any] = {"kernel": "eager", "executor": "inline", "progress": False}
    result = foedus.simulate(run, plan=plan, **how)
    assert result.model["weight"].shape == (2, 9)
    own = {"a": {"age": torch.ones(4), "label": torch.ones(4)}}
    with pytest.raises(FoedusError) as refused:
        foedus.simulate(run, plan=plan, data=own, **how)
    assert refused.value.code == "align_refused"
