"""What a notebook hands over, as the values that a run is prepared from: run, plan and data as files or as objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import Tensor, nn

from foedus.data.catalogue import federate
from foedus.data.dataset import Columns
from foedus.data.population import Federation, Generated, federation
from foedus.domain.errors import ConfigError, UsageError
from foedus.domain.plan import PlanBundle
from foedus.domain.run import RunSpec, parse_spec, run_file
from foedus.domain.table import override, read_toml
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared, prepare_plan, prepare_spec
from foedus.local.loader import plan_of
from foedus.local.plan import Loss, TrainingPlan
from foedus.strategies.catalogue import check_options

Run = RunSpec | Mapping[str, Any] | str | os.PathLike[str]
Data = Federation | Generated | Mapping[str, Columns]
PYTHON = "python"
"""What stands in run.toml for a plan or for data that were given as objects."""

NO_FILES = PlanBundle({}, "plan.py")
"""What a plan that was made in Python has of files."""


class How(TypedDict, total=False):
    """How a run is computed, and whether it tells its progress; ``workers`` is the number of processes."""

    kernel: Literal["auto", "eager", "graph"]
    executor: str
    workers: int | None
    device: str
    progress: bool


@dataclass(frozen=True)
class Inputs:
    """A run that could begin, and its clients. ``name`` is what it is called."""

    prepared: Prepared
    federation: Federation
    name: str


def plan(
    model: Callable[..., nn.Module],
    loss: Loss,
    prepare: Callable[..., tuple[Tensor, Tensor]],
    metrics: Mapping[str, Loss] | None = None,
    directions: Mapping[str, Literal["max", "min"]] | None = None,
) -> TrainingPlan:
    """A training plan from functions, as a plan file has them.

    ``model()`` makes the network; ``loss(output, target)`` is a scalar; ``prepare(columns)`` gives inputs and targets;
    each metric is a mean over a batch, of which ``directions`` says whether ``max`` (the default) or ``min`` is better.
    In a run that aligns tables they may be ``model(schema)`` and ``prepare(columns, schema)``.

    Raises:
        PlanError: ``plan_incomplete``.
    """
    names = {"model": model, "loss": loss, "prepare": prepare}
    return plan_of({**names, "metrics": dict(metrics or {}), "directions": dict(directions or {})}, "given")


def read_inputs(
    run: Run, overrides: Mapping[str, object] | None, plan: TrainingPlan | None, data: Data | None
) -> Inputs:
    """Check everything, and import the plan; nothing runs yet.

    Raises:
        ConfigError, PlanError, DataError: where anything is wrong.
        UsageError: ``run_refused``, ``plan_refused`` where they are none of the things that they can be.
    """
    if plan is not None and not isinstance(plan, TrainingPlan):
        raise UsageError(
            "plan_refused",
            f"A plan cannot be a {type(plan).__name__}.",
            "It has a model, a loss and prepare().",
            "Make it with `foedus.plan(model=…, loss=…, prepare=…)`; `model` is a function that makes the network.",
        )
    table, base, where = _table(run)
    if plan is not None:
        table = {**table, "plan": PYTHON}
    if data is not None:
        kept = {key: value for key, value in table.get("data", {}).items() if key in ("tags", "cache", "align")}
        table = {**table, "data": {"name": PYTHON, **kept}}
    for key, value in (overrides or {}).items():
        override(table, key, value)
    spec = parse_spec(table, where)
    check_options(spec.strategy.name, spec.strategy.options)
    if data is not None and spec.data.align is not None:
        raise _not_aligned()
    prepared = prepare_spec(spec, base) if plan is None else prepare_plan(spec, base, NO_FILES, plan)
    return Inputs(prepared, _clients(prepared, data), spec.name or (base.resolve().name if plan is None else "run"))


def engine_of(how: How) -> Engine:
    """The kernel and executor that were asked for."""
    return Engine(how.get("kernel", "auto"), how.get("executor", "auto"), how.get("workers"), how.get("device", "cpu"))


def _clients(prepared: Prepared, data: Data | None) -> Federation:
    if data is None:
        return federate(prepared.spec, prepared.base, prepared.alignment)
    return data if isinstance(data, Federation) else federation(data)


def _not_aligned() -> ConfigError:
    return ConfigError(
        "align_refused",
        "Data that are given as objects cannot be aligned.",
        "They have the columns that they have; `[data.align]` reads tables of `sites`.",
        "Leave `[data.align]` out, or `data`.",
    )


def _table(run: Run) -> tuple[dict[str, Any], Path, str]:
    """The run's table, the folder that its paths are relative to, and what it is called in refusals."""
    if isinstance(run, RunSpec):
        return run.model_dump(mode="json", exclude_unset=True), Path(), "the run"
    if isinstance(run, Mapping):
        return _copied(run), Path(), "the run"
    if isinstance(run, (str, os.PathLike)):
        path = run_file(Path(run))
        return read_toml(path), path.parent, path.name
    raise UsageError(
        "run_refused",
        f"A run cannot be a {type(run).__name__}.",
        "It is the path of a run.toml, a table as a dict, or a RunSpec.",
        "Give one of them.",
    )


def _copied(table: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose tables may be changed."""
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in table.items()}
