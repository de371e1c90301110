"""The jobs: synthetic clients by seed, models and plans. Every runner trains the same clients on the same batches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foedus.data.batching import batches
from foedus.data.dataset import ClientData, Examples
from foedus.domain.plan import PlanBundle
from foedus.domain.rng import generator
from foedus.domain.run import parse_spec
from foedus.domain.tree import clone
from foedus.engine.prepare import Prepared
from foedus.local.plan import TrainingPlan, build_model, manifest_of, tensors_of
from foedus.schedules.selectors import uniform
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import RunContext

SEED = 1
PIXELS = 784


@dataclass(frozen=True)
class Job:
    """``low`` to ``high`` examples for each client; ``hidden`` widths of an MLP, or none for the CNN; plain SGD."""

    name: str
    clients: int
    low: int
    high: int
    classes: int
    cohort: int
    rounds: int
    batch: int
    hidden: tuple[int, ...]
    lr: float = 0.1


JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        Job("j1", 1000, 20, 60, 62, 100, 20, 10, (128,)),
        Job("j2", 200, 50, 50, 62, 20, 5, 10, ()),
        Job("j3", 10, 2000, 2000, 10, 10, 10, 32, (512, 512)),
    )
}


def model(job: Job) -> nn.Module:
    """The job's network, as a user would write it."""
    if not job.hidden:
        return nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, job.classes)),
        )
    widths = (PIXELS, *job.hidden, job.classes)
    layers = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(output, target)


def plan(job: Job) -> TrainingPlan:
    """The job as a training plan."""
    return TrainingPlan(
        functools.partial(model, job), loss, {}, {}, lambda columns: (columns["inputs"], columns["targets"])
    )


@functools.lru_cache(None)
def clients(job: Job) -> dict[str, Examples]:
    """Every client's examples: noisy prototypes, with label shares drawn from Dirichlet(0.5)."""
    rng = np.random.default_rng(1)
    prototypes = np.random.default_rng(7).standard_normal((job.classes, PIXELS), np.float32)
    sizes = rng.integers(job.low, job.high + 1, job.clients)
    return {f"c{at:04d}": _draw(rng, prototypes, int(size)) for at, size in enumerate(sizes)}


def _draw(rng: np.random.Generator, prototypes: NDArray[np.float32], size: int) -> Examples:
    shares = rng.dirichlet(np.full(len(prototypes), 0.5))
    targets = rng.choice(len(prototypes), size, p=shares)
    inputs = 0.3 * (0.5 * prototypes[targets] + rng.standard_normal((size, PIXELS), np.float32))
    return Examples(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(targets.astype(np.int64)))


def client_data(job: Job) -> dict[str, ClientData]:
    """The same, as the engine takes it; nothing is kept for testing."""
    return {name: ClientData(name, examples, examples.take(torch.arange(0))) for name, examples in clients(job).items()}


def prepared(job: Job) -> Prepared:
    """The job as a run that could begin."""
    local = {"optimizer": "sgd", "lr": job.lr, "epochs": 1, "batch_size": job.batch}
    spec = parse_spec(
        {
            "plan": "plan.py",
            "rounds": job.rounds,
            "seed": SEED,
            "strategy": {"name": "fedavg", "local": local},
            "cohort": {"size": job.cohort},
            "data": {"name": job.name, "partition": {"name": "given", "clients": job.clients}},
            "test": {"ratio": 0.0},
        }
    )
    torch.set_num_threads(1)
    module = build_model(plan(job), SEED)
    manifest = manifest_of(plan(job), module)
    strategy = build(RunContext(spec, manifest))
    bundle = PlanBundle({}, "plan.py")
    return Prepared(spec, Path(), bundle, plan(job), clone(tensors_of(module)), manifest, strategy)


def cohorts(job: Job) -> list[tuple[str, ...]]:
    """Whom each round asks, as foedus draws them."""
    select = uniform(prepared(job).spec.cohort)
    names = tuple(sorted(clients(job)))
    return [select(names, generator(SEED, at, "", "select train")) for at in range(1, job.rounds + 1)]


def in_order(job: Job, client: str, epoch: int) -> Examples:
    """A client's examples in the order of its batches in one epoch, so that a bare loop only cuts slices."""
    examples = clients(job)[client]
    return examples.take(torch.cat(list(batches(len(examples), job.batch, SEED, client, epoch))))
