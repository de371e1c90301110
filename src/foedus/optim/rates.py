"""Learning-rate schedules: the rate of a step from the rounds, or from the steps, that were taken before it.

Each is a closed form of that number, so nothing but the number has to be kept, and a client that missed rounds has the
rate that the others have. Names and parameters are those of ``torch.optim.lr_scheduler``. Sources: Loshchilov and
Hutter, SGDR (ICLR 2017, https://arxiv.org/abs/1608.03983), Equation 5, for ``cosine``; Goyal et al., Accurate, Large
Minibatch SGD (2017, https://arxiv.org/abs/1706.02677), Section 2.2, for the warm-up that ``linear`` is.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from foedus.domain.table import Amount, PositiveInt, Rate, Table

Factor = Annotated[float, Field(gt=0, le=1)]
Over = Literal["rounds", "steps"]
"""What is counted: rounds of the run that are over, or steps that this client has taken in the run."""


class StepTable(Table):
    """``lr * gamma ** floor(t / step_size)``: torch's ``StepLR``."""

    name: Literal["step"]
    step_size: PositiveInt
    gamma: Factor = 0.1
    over: Over = "rounds"


class ExponentialTable(Table):
    """``lr * gamma ** t``: torch's ``ExponentialLR``."""

    name: Literal["exponential"]
    gamma: Factor
    over: Over = "rounds"


class CosineTable(Table):
    """From ``lr`` to ``eta_min`` along half a cosine in ``t_max``, and then ``eta_min``: ``CosineAnnealingLR``."""

    name: Literal["cosine"]
    t_max: PositiveInt
    eta_min: Amount = 0.0
    over: Over = "rounds"


class LinearTable(Table):
    """From ``lr * start_factor`` to ``lr * end_factor`` in ``total_iters``, and then that: torch's ``LinearLR``."""

    name: Literal["linear"]
    total_iters: PositiveInt
    start_factor: Factor = 1.0
    end_factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    over: Over = "rounds"


RateTable = Annotated[StepTable | ExponentialTable | CosineTable | LinearTable, Field(discriminator="name")]


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
