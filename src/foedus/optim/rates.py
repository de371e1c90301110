"""Learning-rate schedules: the rate of a step from the rounds, or from the steps, that were taken before it.

Each is a closed form of that number, so nothing but the number has to be kept, and a client that missed rounds has the
rate that the others have. Names and parameters are those of ``torch.optim.lr_scheduler``. Sources: Loshchilov and
Hutter, SGDR (ICLR 2017, https://arxiv.org/abs/1608.03983), Equation 5, for ``cosine``; Goyal et al., Accurate, Large
Minibatch SGD (2017, https://arxiv.org/abs/1706.02677), Section 2.2, for the warm-up that ``linear`` is.
"""

from __future__ import annotations

import math

from torch import Tensor

from foedus.domain.rates import CosineTable, ExponentialTable, LinearTable, StepTable
from foedus.domain.table import Rate


def rate_at(table: StepTable | ExponentialTable | CosineTable | LinearTable, lr: Rate, taken: Tensor) -> Tensor:
    """The learning rate after so many rounds or steps (``taken``, ``[]``), as a tensor of the same kind, ``[]``.

    >>> import torch
    >>> [float(rate_at(StepTable(name="step", step_size=2, gamma=0.5), 1.0, torch.tensor(float(t)))) for t in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    match table:
        case StepTable():
            return lr * _power(table.gamma, (taken / table.step_size).floor())
        case ExponentialTable():
            return lr * _power(table.gamma, taken)
        case CosineTable():
            angle = math.pi * (taken / table.t_max).clamp(max=1.0)
            return table.eta_min + (lr - table.eta_min) * (1 + angle.cos()) / 2
        case LinearTable():
            reached = (taken / table.total_iters).clamp(max=1.0)
            return lr * (table.start_factor + (table.end_factor - table.start_factor) * reached)


def _power(gamma: float, exponent: Tensor) -> Tensor:
    return (exponent * math.log(gamma)).exp()
