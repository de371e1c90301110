"""The jobs' networks and their loss, as one would write them in plain PyTorch."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from benchmarks.definitions import Job


def model(job: Job) -> nn.Module:
    """The job's network, as a user would write it."""
    if job.convolutions:
        return nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, job.classes)),
        )
    layers = [part for i, o in itertools.pairwise(job.widths) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(output, target)
