"""The job's network with the parameters that training begins with, and local SGD, for peers that run PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.exported import Arrays, Exported
from benchmarks.networks import loss, model


def loaded(data: Exported) -> nn.Module:
    """The job's network as training begins."""
    network = model(data.job)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in data.parameters.items()})
    return network


def plain(network: nn.Module) -> Arrays:
    """The network's parameters as arrays."""
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def train(data: Exported, network: nn.Module, rows: NDArray[np.int64]) -> None:
    """One local epoch of plain SGD on these rows, in this order."""
    inputs, targets = torch.from_numpy(data.inputs[rows]), torch.from_numpy(data.targets[rows])
    optimizer = torch.optim.SGD(network.parameters(), lr=data.job.lr)
    for at in range(0, len(rows), data.job.batch):
        optimizer.zero_grad()
        loss(network(inputs[at : at + data.job.batch]), targets[at : at + data.job.batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
