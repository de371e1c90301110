"""The table ``[stop]`` of run.toml: when a run ends before its last round."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from foedus.domain.table import Amount, PositiveInt, Table, Text


class StopTable(Table):
    """End the run when ``metric`` reaches ``target``, or has not improved for ``patience`` rounds.

    ``metric`` is named as records have it: ``test/accuracy``, ``validation/loss``, ``central/loss``, ``train/loss``.
    Whether more or less is better the plan says. ``delta``: by less than this nothing has improved. Before ``minimum``
    rounds nothing ends.
    """

    metric: Annotated[Text, Field(pattern="^(test|validation|central|train)/[^/]+$")]
    target: Annotated[float, Field(allow_inf_nan=False)] | None = None
    patience: PositiveInt | None = None
    delta: Amount = 0.0
    minimum: PositiveInt = 1

    @model_validator(mode="after")
    def _something_to_stop_at(self) -> Self:
        if self.target is None and self.patience is None:
            raise ValueError("give `target`, `patience` or both")
        return self
