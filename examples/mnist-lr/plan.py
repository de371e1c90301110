"""MNIST with logistic regression: one layer, 7,850 parameters."""

import torch
from torch import Tensor, nn


def model() -> nn.Module:
    """The model that everybody trains together. Its initial parameters come from the run's seed."""
    return nn.Linear(784, 10)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """What training lowers: one number for a batch."""
    return nn.functional.cross_entropy(output, target)


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """The share of a batch that is classified rightly."""
    return (output.argmax(1) == target).float().mean()


metrics = {"accuracy": accuracy}


def prepare(columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """From a dataset's columns to the model's inputs and targets. Pixels go from 0 to 255."""
    return columns["image"].to(torch.float32).flatten(1) / 255, columns["label"].to(torch.int64)
