"""The jobs as foedus runs them, and as they are written down for every other runner: :class:`Exported`."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import foedus
from benchmarks import networks
from benchmarks.definitions import PIXELS, Job
from benchmarks.exported import Exported
from foedus.data.batching import permutation
from foedus.data.catalogue import load
from foedus.data.dataset import Columns, prepare_client
from foedus.data.population import Federation, Numbered, OnDemand
from foedus.data.sources.source import Pool
from foedus.domain.plan import PlanBundle
from foedus.domain.rng import generator
from foedus.domain.run import DataTable, parse_spec
from foedus.engine.prepare import Prepared, prepare_plan
from foedus.local.plan import TrainingPlan
from foedus.schedules.selectors import uniform

SEED = 1
DATA = Path(os.environ.get("FOEDUS_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
"""Where data sets are looked for that are not bundled."""


def available(job: Job) -> str:
    """Why the job cannot be run here; empty where it can."""
    if job.name != "flute" or (DATA / "mnist").is_dir():
        return ""
    return f"MNIST is not here; put its IDX files into {DATA.name}/mnist, or set FOEDUS_TEST_DATA to what holds it."


def plan(job: Job) -> TrainingPlan:
    """The job as a training plan."""
    return foedus.plan(functools.partial(networks.model, job), networks.loss, _inputs_and_targets)


def run(job: Job, cache: int = 1024) -> dict[str, object]:
    """The job as a run; each process keeps ``cache`` MiB of clients' data at most."""
    return {
        "plan": "plan.py",
        "rounds": job.rounds,
        "seed": SEED,
        "strategy": {
            "name": "fedavg",
            "local": {"optimizer": "sgd", "lr": job.lr, "epochs": 1, "batch_size": job.batch},
        },
        "cohort": {"size": job.cohort},
        "data": {"name": job.name, "cache": cache},
        "test": {"ratio": 0.0},
    }


def prepared(job: Job, cache: int = 1024) -> Prepared:
    """The job as a run that could begin."""
    return prepare_plan(parse_spec(run(job, cache)), Path(), PlanBundle({}, "plan.py"), plan(job))


def federation(data: Exported) -> Federation:
    """The clients of a job that was written down."""
    inputs, targets, bounds = torch.from_numpy(data.inputs), torch.from_numpy(data.targets), data.bounds.tolist()

    def read(place: int) -> Columns:
        rows = slice(bounds[place], bounds[place + 1])
        return {"inputs": inputs[rows], "targets": targets[rows]}

    return Federation(OnDemand(Numbered(data.job.clients), read))


def export(job: Job) -> Exported:
    """The job with the data, cohorts and batches that foedus would draw."""
    inputs, targets, bounds = _mnist(job) if job.name == "flute" else _synthetic(job)
    names, asked = Numbered(job.clients), cohorts(job)
    epochs, orders, ends = dict.fromkeys(names, 0), [], [0]
    for cohort in asked:
        for name in cohort:
            first, stop = bounds[names.index(name)], bounds[names.index(name) + 1]
            kept = _kept(name, int(stop - first))
            orders.append(first + kept[permutation(SEED, name, epochs[name], len(kept))].numpy())
            ends.append(ends[-1] + len(orders[-1]))
            epochs[name] += 1
    places = np.array([[names.index(name) for name in cohort] for cohort in asked])
    parameters = {name: tensor.numpy() for name, tensor in prepared(job).model.items()}
    return Exported(job, inputs, targets, bounds, places, np.concatenate(orders), np.array(ends), parameters)


def _kept(name: str, size: int) -> Tensor:
    """A client's rows to train on, in the order in which foedus keeps them, ``[size]``."""
    columns = {"inputs": torch.zeros(size), "targets": torch.arange(size)}
    return prepare_client(name, columns, _inputs_and_targets, 0.0, SEED).train.targets


def _inputs_and_targets(columns: Columns) -> tuple[Tensor, Tensor]:
    return columns["inputs"], columns["targets"]


def cohorts(job: Job) -> list[Sequence[str]]:
    """Whom each round asks, as foedus draws them, sorted."""
    select = uniform(prepared(job).spec.cohort)
    names = Numbered(job.clients)
    return [sorted(select(names, generator(SEED, at, "", "select train"))) for at in range(1, job.rounds + 1)]


def shortened(job: Job, rounds: int) -> Job:
    """The job with fewer rounds, where ``rounds`` is not 0."""
    return replace(job, rounds=rounds) if rounds else job


Data = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]


def _synthetic(job: Job) -> Data:
    """Noisy prototypes, with each client's label shares drawn from Dirichlet(0.5)."""
    rng = np.random.default_rng(1)
    prototypes = np.random.default_rng(7).standard_normal((job.classes, PIXELS), np.float32)
    sizes = rng.integers(job.low, job.high + 1, job.clients)
    inputs, targets = zip(*(_draw(rng, prototypes, int(size)) for size in sizes), strict=True)
    return np.concatenate(inputs), np.concatenate(targets), np.concatenate([[0], sizes.cumsum()])


def _draw(
    rng: np.random.Generator, prototypes: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    shares = rng.dirichlet(np.full(len(prototypes), 0.5))
    targets = rng.choice(len(prototypes), size, p=shares).astype(np.int64)
    inputs = 0.3 * (0.5 * prototypes[targets] + rng.standard_normal((size, PIXELS), np.float32))
    return inputs.astype(np.float32), targets


def _mnist(job: Job) -> Data:
    """MNIST, shuffled, and cut into clients of the same size; pixels from 0 to 1."""
    pool = load(DataTable(name="mnist", folder=str(DATA / "mnist")))
    assert isinstance(pool, Pool), "MNIST has no clients of its own"
    rows = torch.from_numpy(np.random.default_rng(1).permutation(len(pool.columns["label"])))[: job.clients * job.low]
    inputs = pool.columns["image"][rows].reshape(len(rows), PIXELS).float() / 255
    return inputs.numpy(), pool.columns["label"][rows].numpy(), np.arange(job.clients + 1, dtype=np.int64) * job.low
