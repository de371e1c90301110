"""Heart disease in four hospitals: logistic regression on what all of them measure.

The setting is Fed-Heart-Disease of FLamby (Ogier du Terrail et al., FLamby: Datasets and Benchmarks for Cross-Silo
Federated Learning in Realistic Healthcare Settings, NeurIPS 2022, https://arxiv.org/abs/2210.04620).
"""

import torch
from torch import Tensor, nn

NUMBERS = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"]
LEVELS = ["cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2"]
"""Chest pain has the levels 1 to 4 and the ECG at rest 0 to 2, over all hospitals; the first of each is left out."""


def model() -> nn.Module:
    """The model that everybody trains together: 13 weights and a bias."""
    return nn.Linear(len(NUMBERS) + len(LEVELS), 1)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """What training lowers: one number for a batch."""
    return nn.functional.binary_cross_entropy_with_logits(output, target)


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """The share of patients who are told rightly whether they have the disease."""
    return ((output > 0) == (target > 0)).float().mean()


metrics = {"accuracy": accuracy}


def prepare(columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """From the columns that each hospital's loading plan makes to inputs ``[n, 13]`` and targets ``[n, 1]``."""
    inputs = torch.stack([columns[name] for name in NUMBERS + LEVELS], dim=1)
    return inputs, columns["disease"].unsqueeze(1)
