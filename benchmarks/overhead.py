"""What a live round costs beside the training itself: the first one and later ones, in a sandbox and without one.

``bare`` is the same training in a plain PyTorch loop: the same model, as many batches of the same size. A round is
measured by the coordinator's events, from commit to commit; the first one from its start, so that it has the start of
the work process in it, but neither joining nor approval. ``no-op``: four nodes with one example each.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from benchmarks.payload import TAG
from benchmarks.rounds import Options
from foedus.client import runs
from foedus.client.runs import Submission
from foedus.data.files import write_columns
from foedus.domain.codec import encode_tensors
from foedus.domain.plan import PlanBundle
from foedus.domain.run import parse_spec
from foedus.local.kinds import load_plan
from foedus.local.plan import build_model, manifest_of, tensors_of
from tests.federation import LocalFederation

FEATURES, CLASSES, BATCH, RATE = 64, 10, 20, 0.01

PLAN = """
from torch import nn


def model():
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def loss(output, target):
    return nn.functional.cross_entropy(output, target)


def prepare(columns):
    return columns["x"], columns["y"]
"""


@dataclass(frozen=True)
class Case:
    """So many nodes with so many rows each, a model of this width, and this many rounds."""

    name: str
    nodes: int
    rows: int
    width: int
    rounds: int


CASES = (
    Case("no-op", nodes=4, rows=1, width=8, rounds=40),
    Case("tiny", nodes=1, rows=1000, width=32, rounds=20),
    Case("200 MB", nodes=1, rows=100, width=7000, rounds=4),
)


def run(options: Options) -> dict[str, object]:
    """Every case in a sandbox and without one; ``--only`` names cases."""
    rows = []
    for case in CASES:
        if not options.only or case.name in options.only:
            bare = statistics.median(_bare(case) for _ in range(max(3, options.repeat)))
            rows += [{"case": case.name, "bare_s": bare, **_live(case, sandbox)} for sandbox in ("bubblewrap", "off")]
    return {"rows": rows}


def _columns(case: Case, client: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(client)
    labels = torch.randint(CLASSES, (case.rows,), generator=rng)
    return {"x": torch.randn(case.rows, FEATURES, generator=rng), "y": labels}


def _bare(case: Case) -> float:
    """Seconds of one epoch."""
    torch.set_num_threads(1)
    net, columns = _model(case), _columns(case, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    began = time.perf_counter()
    for x, y in zip(columns["x"].split(BATCH), columns["y"].split(BATCH), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return time.perf_counter() - began


def _bundle(case: Case) -> PlanBundle:
    return PlanBundle({"plan.py": PLAN.replace("WIDTH", str(case.width)).encode()}, "plan.py")


def _model(case: Case) -> nn.Module:
    return build_model(load_plan(_bundle(case)), 0)


def _submission(case: Case) -> Submission:
    plan = load_plan(_bundle(case))
    module = build_model(plan, 0)
    spec = parse_spec(
        {
            "plan": "plan.py",
            "rounds": case.rounds,
            "strategy": {"name": "fedavg", "local": {"lr": RATE, "batch_size": BATCH}},
            "cohort": {"size": case.nodes, "population": case.nodes},
            "data": {"name": "none", "tags": (TAG,), "partition": {"name": "given", "clients": case.nodes}},
            "test": {"ratio": 0.0},
        }
    )
    return Submission(spec, _bundle(case), encode_tensors(tensors_of(module)), manifest_of(plan, module))


def _live(case: Case, sandbox: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, LocalFederation(Path(name)) as federation:
        federation.start_coordinator()
        for number in range(case.nodes):
            path, client = Path(name) / f"data{number}.npz", f"c{number:04d}"
            write_columns(path, _columns(case, number))
            federation.enrol(client, path, (TAG,))
            (federation.home(client) / "policy.toml").write_text(f'sandbox = "{sandbox}"\n')
            federation.start_node(client)
        with federation.connection() as connection:
            submitted = runs.submit(connection, _submission(case)).id
        federation.approve_all(_bundle(case).digest)
        started, committed = _times(federation, submitted)
        with federation.connection() as connection:
            records = runs.rounds(connection, submitted).rounds
    later = [after - before for before, after in pairwise(committed)]
    trained = [receipt.seconds for record in records[1:] for phase in record.phases for receipt in phase.receipts]
    return {
        "sandbox": sandbox,
        "first_s": committed[0] - started,
        "later_s": statistics.median(later),
        "worst_s": max(later),
        "trained_s": statistics.median(trained),
    }


def _times(federation: LocalFederation, run_id: str) -> tuple[float, list[float]]:
    """When the first round began, and when each was committed, by the coordinator's clock."""
    started, committed = 0.0, []
    with federation.connection() as connection:
        for event in runs.events(connection, run_id):
            if event.name == "round_started" and not started:
                started = event.data["at"]
            if event.name == "round_committed":
                committed.append(event.data["at"])
            if event.name in ("run_failed", "run_cancelled"):
                raise SystemExit(f"{event.name}: {event.data}")
    return started, committed
