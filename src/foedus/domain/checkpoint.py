"""Tables of run.toml: ``[checkpoint]``, what a simulation goes on from; ``[[checkpointer]]``, models that are kept."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from foedus.domain.table import Name, Table

When = Literal["pre", "post"]
"""Before a client's model is aggregated, or after."""

CHECKPOINTERS = 16
"""Checkpointers of a run at most."""


class CheckpointTable(Table):
    """``every`` so many rounds (0: never at all), of which the newest ``keep`` stay.

    Where ``every`` is not given, once a minute. Unless it is 0, also when a run is interrupted, and at its end.
    """

    every: Annotated[int, Field(ge=0, le=2**53)] | None = None
    keep: Annotated[int, Field(ge=1, le=1000)] = 2


class CheckpointerTable(Table):
    """A model that every client keeps: of before aggregation (``pre``: its own, trained) or after it (``post``).

    ``keep``: the ``latest``, or the ``best`` ``by`` the loss (the default), a metric of the plan's or one of its
    ``scores``. ``direction`` says whether ``max`` or ``min`` is better where neither foedus nor the plan does.
    ``name`` is the file's; without it, it is made of the rest.
    """

    when: When
    keep: Literal["latest", "best"] = "latest"
    by: Name | None = None
    direction: Literal["max", "min"] | None = None
    name: Name | None = None

    @model_validator(mode="after")
    def _only_a_best_is_measured(self) -> Self:
        if self.keep == "latest" and (self.by or self.direction):
            raise ValueError('`by` and `direction` belong to `keep = "best"`')
        return self

    @property
    def called(self) -> str:
        """The name, given or made.

        >>> CheckpointerTable(when="pre", keep="best", by="accuracy").called
        'pre-best-accuracy'
        """
        return self.name or "-".join([self.when, self.keep, *([self.by or "loss"] if self.keep == "best" else [])])
