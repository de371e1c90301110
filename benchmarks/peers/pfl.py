"""pfl on a job: its ``SimulatedBackend`` with a ``PyTorchModel``; under ``torchrun``, one worker per process."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.aggregate.weighting import WeightByDatapoints  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import FederatedAveraging  # type: ignore[import-not-found]
from pfl.callback.base import TrainingProcessCallback  # type: ignore[import-not-found]
from pfl.data.dataset import Dataset  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.hyperparam import NNTrainHyperParams  # type: ignore[import-not-found]
from pfl.metrics import Metrics  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]
from torch import Tensor, nn

from benchmarks.exported import Clock, Exported, read, report
from benchmarks.peers.network import loaded, plain

NEVER = 10**9
"""Rounds between two evaluations."""


class Model(nn.Module):
    """The job's network, with the methods that pfl calls."""

    def __init__(self, data: Exported) -> None:
        super().__init__()
        self.network = loaded(data)

    def loss(self, inputs: Tensor, targets: Tensor, eval: bool = False) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.network(inputs), targets)

    def metrics(self, inputs: Tensor, targets: Tensor, eval: bool = False) -> dict[str, Any]:
        """None."""
        return {}


class Timer(TrainingProcessCallback):  # type: ignore[misc]
    """Keeps the times of the rounds."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_begin(self, *, model: object) -> Metrics:
        """The first round begins."""
        self.clock.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: object, model: object, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round has ended."""
        self.clock.round()
        return False, Metrics()


def run(data: Exported) -> tuple[Clock, nn.Module]:
    """Train; every worker walks through all asks, and pfl deals them out."""
    torch.set_num_threads(1)
    job, model, timer = data.job, Model(data), Timer()

    def client(ask: int) -> Dataset:
        rows = data.order(*divmod(ask, job.cohort))
        return Dataset((torch.from_numpy(data.inputs[rows]), torch.from_numpy(data.targets[rows])), user_id=str(ask))

    asks = itertools.count()
    clients = FederatedDataset(client, lambda: next(asks))
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=clients, val_data=clients, postprocessors=[WeightByDatapoints()]),
        model=PyTorchModel(model, torch.optim.SGD, torch.optim.SGD(model.parameters(), lr=1.0)),
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=job.rounds,
            evaluation_frequency=NEVER,
            train_cohort_size=job.cohort,
            val_cohort_size=0,
        ),
        model_train_params=NNTrainHyperParams(
            local_learning_rate=job.lr, local_num_epochs=1, local_batch_size=job.batch
        ),
        callbacks=[timer],
    )
    timer.clock.rounds = timer.clock.rounds[: job.rounds]
    return timer.clock, model.network


def main(folder: str, out: str) -> None:
    """Run, and report from the first worker."""
    data = read(Path(folder))
    clock, network = run(data)
    if os.environ.get("RANK", "0") == "0":
        report(Path(out), clock, plain(network))
    if torch.distributed.is_initialized():  # a worker that leaves before the others can abort
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
