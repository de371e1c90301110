"""The tables of learning-rate schedules; :mod:`foedus.optim.rates` computes them, and has their sources."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foedus.domain.table import Amount, PositiveInt, Table

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
