"""H14 whole: nodes tell their columns where owners let them; the run waits, and its model is made for what came."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus.cli.run_align import begin_aligned
from foedus.cli.run_submit import submitted
from foedus.client import audit, runs
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared, prepare
from foedus.engine.simulate import simulate
from foedus.node.datasets import Terms
from foedus.node.vault import Vault
from tests.faults import points
from tests.faults.chained import chain_coordinator, hold_the_laws, numbered
from tests.federation import LocalFederation, until

PLAN = """
import torch
from torch import nn


def model(schema):
    return nn.Linear(sum(schema["classes"].get(name, 1) for name in schema["inputs"]), 1)


def loss(output, target):
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(1), target.float())


def prepare(columns, schema):
    inputs = []
    for name in schema["inputs"]:
        if name in schema["classes"]:
            inputs.append(nn.functional.one_hot(columns[name].long(), schema["classes"][name]).float())
        else:
            inputs.append(columns[name].float()[:, None] / 100)
    return torch.cat(inputs, 1), columns["label"]
"""
RUN = """
plan = "plan.py"
rounds = 2
seed = 3
strategy = { name = "fedavg", local = { lr = 0.1, batch_size = 4 } }
cohort = { size = 3 }

[data]
name = "sites"
folder = "sites"
tags = ["stays"]

[data.align]
"""
LOADING = """
name = "gamma"
[file]
delimiter = ";"
[columns]
age = { from = "Alter" }
weight = { from = "Gewicht" }
label = {}
"""
SITES = {
    "alpha": "age,ward,label\n" + "".join(f"{30 + at},{('north', 'south')[at % 2]},{at % 2}\n" for at in range(20)),
    "beta": "label,ward,weight\n" + "".join(f"{at % 2},{('west', '?')[at % 2]},{60 + at}\n" for at in range(14)),
    "gamma": "Alter;Gewicht;label\n" + "".join(f"{50 + at};{70 + at};{at % 2}\n" for at in range(16)),
}
"""`beta` has another class, one that is missing, a column that `alpha` lacks, and lacks one of its columns."""
LEAVES = "[leave]\nschema = true\n"
EAGER = Engine("eager", "inline")
FIXING = ["commit:schema:before:3", "commit:schema:after:1"]
"""Of three nodes that tell a schema, the third one's commit holds what is made of them."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and each site's own table; one of them has a loading plan of its owner's."""
    folder = tmp_path_factory.mktemp("align")
    folder.chmod(0o755)
    (folder / "sites").mkdir()
    (folder / "plan.py").write_text(PLAN)
    (folder / "run.toml").write_text(RUN)
    for client, text in SITES.items():
        (folder / "sites" / f"{client}.csv").write_text(text)
    (folder / "sites" / "gamma.toml").write_text(LOADING)
    return folder


@pytest.fixture(scope="module")
def federation(project: Path) -> Iterator[LocalFederation]:
    """A node for each site; the owner of `beta` lets no schema leave yet."""
    with LocalFederation(project) as running:
        running.start_coordinator()
        for client, text in SITES.items():
            own, data = project / "sites" / f"{client}.toml", project / f"{client}.csv"
            data.write_text(text)
            running.enrol(client, data, ("stays",), Terms(loading=str(own)) if own.exists() else Terms(texts=True))
            if client != "beta":
                _let_schemas_leave(running, client)
            running.start_node(client)
        running.greeted()
        yield running


def _let_schemas_leave(federation: LocalFederation, client: str) -> None:
    policy = federation.home(client) / "policy.toml"
    before = policy.read_text() if policy.is_file() else ""
    policy.write_text(before.removesuffix(LEAVES) + LEAVES)


def _lines(federation: LocalFederation, client: str, event: str) -> list[str]:
    with Vault(federation.home(client)) as vault:
        return [line.subject for line in vault.audit() if line.event == event]


def _ends_as_simulated(federation: LocalFederation, run: str, made: Prepared) -> None:
    view = federation.finish(run)
    assert (view.status, view.reason) == ("completed", "")
    assert view.model_digest == simulate(made, EAGER).model_digest
    with federation.connection() as connection:
        records = runs.rounds(connection, run).rounds
        assert runs.alignment_of(connection, view) == made.alignment
    assert all(not one.failure for record in records for phase in record.phases for one in phase.receipts)
    assert {one.client for one in records[0].phases[0].receipts} == set(SITES)


def test_h14_the_run_waits_for_the_schemas_that_owners_let_leave_and_trains_as_simulated(
    federation: LocalFederation, project: Path
) -> None:
    """Columns and classes are united, what is absent is filled by rule, and the model is made when that is known."""
    environment = {**os.environ, "FOEDUS_COORDINATOR": federation.url, "FOEDUS_TOKEN": federation.token}
    log = project / "submit.log"
    with log.open("wb") as errors:
        command = [sys.executable, "-m", "foedus", "run", "submit", str(project / "run.toml"), "--json"]
        submitting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
    made = prepare(project / "run.toml")
    until("it says for whom it waits", lambda: "alpha: the owner of node-alpha has not approved" in log.read_text())
    federation.approve_all(made.bundle.digest)
    kept = "beta: the node node-beta keeps its schema (policy_refused: "
    until("it says who keeps a schema", lambda: kept in log.read_text() and "alpha:" not in log.read_text()[-200:])
    with federation.connection() as connection:
        (view,) = runs.list_runs(connection)
    assert (view.status, view.model_digest, view.round) == ("waiting", "", 0)
    assert submitting.poll() is None
    _let_schemas_leave(federation, "beta")
    told, _ = submitting.communicate(timeout=240)
    assert submitting.returncode == 0, log.read_text()
    assert "aligned: 3 inputs" in log.read_text()
    assert json.loads(told)["data"]["id"] == view.id
    assert made.alignment is not None
    columns = made.alignment.plan.columns
    assert sorted(columns) == ["age", "label", "ward", "weight"]
    assert (columns["ward"].classes, columns["ward"].missing) == ({"north": 0.0, "south": 1.0, "west": 2.0}, 3.0)
    (weight,) = [tensor for tensor in made.manifest.tensors if len(tensor.shape) == 2]
    assert weight.shape == (1, 6), "two numbers, and a column for each ward and for none"
    _ends_as_simulated(federation, view.id, made)
    assert all(len(_lines(federation, client, "schema_told")) == 1 for client in SITES)
    with federation.connection() as connection:
        acts = [json.loads(entry.text or "{}")["action"] for entry in audit.read(connection)]
    assert acts.index("runs.aligned") < acts.index("runs.parameters") < acts.index("runs.started")


@pytest.mark.parametrize(
    ("seed", "places"), [(5, numbered(points.ALIGNING)), pytest.param(6, FIXING, marks=pytest.mark.soak)]
)
def test_case_9_killed_while_tables_are_aligned(
    seed: int, places: list[str], federation: LocalFederation, project: Path
) -> None:
    """At each place that only such a run passes; and again at the commit that fixes how tables are read."""
    _let_schemas_leave(federation, "beta")
    made = prepare(project / "run.toml", {"seed": str(seed), "rounds": "1"})
    chained = chain_coordinator(federation, places)
    with federation.connection() as connection:
        run = runs.submit(connection, submitted(made.spec, project)).id
        federation.approve_all(made.bundle.digest)
        begin_aligned(connection, run, project)
    until(f"it died everywhere, see {chained.log}", lambda: chained.died() == places)
    _ends_as_simulated(federation, run, made)
    hold_the_laws(federation)
