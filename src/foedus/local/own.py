"""Plans that do a client's work by themselves: the seam between them and a round, and their work in one step.

A *function plan* (:mod:`.function`) and a *command plan* (:mod:`.command`) are records of the same three functions over
named tensors. What they make of a model becomes an update as any other: ``start - end``, so that every aggregator and
server optimizer applies. One step sees a client's whole part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from foedus.data.dataset import Columns, Examples
from foedus.domain.errors import ClientWorkError, PlanError
from foedus.domain.names import check_tensor_name
from foedus.domain.plain import Json
from foedus.domain.plan import ModelManifest, ModelTensor
from foedus.domain.rng import Randomness, derive
from foedus.domain.round import Broadcast
from foedus.domain.tree import State, Tensors, names_of_dtypes, specs
from foedus.local.work import Account, Batch, Carry, Finished, LocalWork

OWN = "own"
"""The part of a client's state that such a plan keeps."""

SEEDS = 2**32
"""Seeds that a plan is given are below this: what numpy's generators take."""


WEIGHTS = (1.0, 1e9)
"""The least and the largest number of examples that a plan may say its work counts for."""


def quiet() -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Given:
    """What a plan's ``fit`` and ``evaluate`` are given. ``columns``: the examples; ``state``: what it kept, if any.

    ``evaluate`` has model, columns and options alone. ``alive`` is to be called now and then in work that lasts.
    """

    model: Tensors
    columns: Columns
    options: Mapping[str, Json]
    state: Tensors = field(default_factory=dict)
    round: int = 0
    seed: int = 0
    alive: Callable[[], None] = quiet


@dataclass(frozen=True)
class Fitted:
    """What ``fit`` came to. ``loss`` is a mean over the examples; ``weight`` stands in place of their number."""

    model: Tensors
    loss: float
    weight: float | None = None
    state: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class OwnPlan:
    """A plan of its own work. ``directions`` has its metrics beside the loss, each with ``max`` or ``min`` as better.

    ``initial(seed, options)`` is the model of round 0; ``check`` has what an ``options.json`` says of options.
    """

    depth: Literal["function", "command"]
    initial: Callable[[int, Mapping[str, Json]], Tensors]
    fit: Callable[[Given], Fitted]
    evaluate: Callable[[Given], Mapping[str, float]]
    directions: Mapping[str, str]
    check: Callable[[Mapping[str, Json]], Mapping[str, Json]]
    options: Mapping[str, Json] = field(default_factory=dict)

    def prepare(self, columns: Columns) -> Examples:
        """The columns as they are; the plan prepares them in its own work."""
        return Examples(dict(columns), {})


def initial_of(plan: OwnPlan, seed: int) -> Tensors:
    """The initial model that ``seed`` gives.

    Raises:
        PlanError: ``plan_model_failed``, ``plan_model_refused``.
    """
    try:
        model = plan.initial(derive(seed, 0, "", "parameters") % SEEDS, plan.options)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise PlanError("plan_model_failed", "The plan made no initial model.", why, "Mend what it says.") from error
    for name, tensor in model.items():
        if not check_tensor_name(name) or tensor.dtype not in names_of_dtypes:
            why = "Names are short and printable, without slashes."
            raise PlanError("plan_model_refused", f"The model's array {name!r:.80} is not allowed.", why, "Rename it.")
    if not any(tensor.dtype.is_floating_point for tensor in model.values()):
        raise PlanError(
            "plan_model_refused",
            "The model has nothing to train.",
            "None of its arrays holds floating-point numbers.",
            "Keep what is trained as float32 or float64.",
        )
    return model


def own_manifest(plan: OwnPlan, model: Tensors) -> ModelManifest:
    """What the rest of foedus needs to know of the model; arrays that hold no real numbers are its buffers."""
    tensors = tuple(
        ModelTensor(name, spec.shape, spec.dtype, "parameter" if model[name].is_floating_point() else "buffer", "")
        for name, spec in specs(model).items()
    )
    return ModelManifest(tensors, {"loss": "min", **plan.directions})


class OwnObjective:
    """A plan of its own work, as client work asks for it. ``alive`` is called now and then while it lasts."""

    at_once = sys.maxsize

    def __init__(self, plan: OwnPlan, alive: Callable[[], None] = quiet) -> None:
        self._plan, self._alive = plan, alive

    def place(self, model: Tensors) -> dict[str, Tensor]:
        """The model as it is; a plan is given copies."""
        return dict(model)

    def measure(self, model: Tensors, batch: Batch) -> dict[str, Tensor]:
        """The plan's ``evaluate`` on these rows: the loss and every metric that it declares, and nothing else."""
        given = Given(model, _columns(batch), self._plan.options, alive=self._alive)
        measured = self._plan.evaluate(given)
        if wanted := {"loss", *self._plan.directions} ^ set(measured):
            raise result_refused(f"evaluate gives `loss` and the metrics declared; it differs in {sorted(wanted)}")
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in measured.items()}

    def fit(self, model: Tensors, batch: Batch, state: State, rng: Randomness) -> Fitted:
        """The plan's ``fit`` on these rows, and what it gives checked against the model that it was given."""
        seed = rng.derive("fit") % SEEDS
        kept = state.tensors.get(OWN, {})
        fitted = self._plan.fit(Given(model, _columns(batch), self._plan.options, kept, rng.round, seed, self._alive))
        if specs(fitted.model) != specs(model):
            raise result_refused("names, shapes or dtypes of its arrays are not those of the model that it was given")
        if not math.isfinite(fitted.loss):
            raise result_refused(f"its loss is {fitted.loss}")
        if fitted.weight is not None and not WEIGHTS[0] <= fitted.weight <= WEIGHTS[1]:
            raise result_refused(f"its weight is {fitted.weight:g}, and not between {WEIGHTS[0]:g} and {WEIGHTS[1]:g}")
        return fitted


def fitting(objective: OwnObjective) -> LocalWork:
    """Client work that is the plan's own: one step over all examples. The update is as that of local SGD."""

    def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
        return {"model": objective.place(broadcast.tensors["model"]), "state": state, "rng": rng}

    def step(carry: Carry, batch: Batch) -> tuple[Carry, Mapping[str, Tensor]]:
        fitted = objective.fit(carry["model"], batch, carry["state"], carry["rng"])
        loss = torch.tensor(fitted.loss, dtype=torch.float64)
        return {"model": fitted.model, "fitted": fitted, "loss": loss * batch.rows}, {"loss": loss}

    def finish(broadcast: Broadcast, carry: Carry) -> Finished:
        start, fitted = broadcast.tensors["model"], carry["fitted"]
        update = {"parameters": {n: start[n] - end for n, end in fitted.model.items() if end.dtype.is_floating_point}}
        if buffers := {name: end for name, end in fitted.model.items() if not end.dtype.is_floating_point}:
            update["buffers"] = buffers
        weights = {} if fitted.weight is None else {"examples": fitted.weight}
        return Finished(update, {"loss": carry["loss"]}, {OWN: fitted.state} if fitted.state else {}, weights)

    return LocalWork(_at_once, init, step, finish, _account)


def result_refused(why: str) -> ClientWorkError:
    """What a plan gave back is not what it should be."""
    return ClientWorkError(
        "plan_result_refused", "The plan's own work gave something that cannot be used.", why, "Mend what it gives."
    )


def _columns(batch: Batch) -> Columns:
    return batch.inputs if isinstance(batch.inputs, dict) else {"inputs": batch.inputs}


def _at_once(examples: int, state: State, rng: Randomness) -> list[slice]:
    return [slice(0, examples)]


def _account(examples: int, state: State) -> Account:
    return Account({"examples": float(examples)}, state.data)
