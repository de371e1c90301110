"""A function plan: ``initial``, ``fit`` and ``evaluate`` over named numpy arrays, in any framework.

Arrays are copies, which the functions may write to. Python's and numpy's process-wide generators are set from the
round, so that code which draws from them gives the same bytes in simulation and live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.domain.errors import PlanError
from foedus.domain.names import NAME
from foedus.domain.plain import Json
from foedus.domain.rng import seed_all
from foedus.domain.tree import Tensors
from foedus.local.own import Fitted, Given, OwnPlan, result_refused

Arrays = Mapping[str, NDArray[Any]]
FITTED = ("model", "loss", "weight", "state")


@dataclass(frozen=True)
class Call:
    """What ``fit`` is told beside model and columns.

    ``options``: the run's, for this plan; ``seed``: of this round and client; ``round``: 1, 2 …; ``state``: the arrays
    that this client's last counted round left, none at first.
    """

    options: Mapping[str, Json]
    seed: int
    round: int
    state: Arrays


def function_plan(
    names: Mapping[str, Any], entry: str, check: Callable[[Mapping[str, Json]], Mapping[str, Json]]
) -> OwnPlan:
    """The function plan that these names define; ``entry`` is what it is called in refusals.

    Raises:
        PlanError: ``plan_incomplete``.
    """
    missing = [name for name in ("initial", "fit", "evaluate") if not callable(names.get(name))]
    if missing:
        raise _incomplete(entry, f"it defines fit, and no function {' and no function '.join(missing)}")
    metrics: Any = names.get("metrics", {})
    if not isinstance(metrics, dict) or not all(map(_is_direction, metrics.items())):
        raise _incomplete(entry, "`metrics` is not a dict of `max` or `min` by name (not `loss`)")
    initial, fit, evaluate = names["initial"], names["fit"], names["evaluate"]

    def make(seed: int, options: Mapping[str, Json]) -> Tensors:
        seed_all(seed)
        return _tensors(initial(seed, dict(options)), "initial")

    def train(given: Given) -> Fitted:
        seed_all(given.seed)
        call = Call(dict(given.options), given.seed, given.round, _arrays(given.state))
        made = fit(_arrays(given.model), _arrays(given.columns), call)
        if not isinstance(made, dict) or not {"model", "loss"} <= set(made) <= set(FITTED):
            raise result_refused("fit returns a dict of `model` and `loss`, and if it likes `weight` and `state`")
        weight = None if made.get("weight") is None else _number(made["weight"], "the weight")
        state = _tensors(made.get("state") or {}, "the state")
        return Fitted(_tensors(made["model"], "the model"), _number(made["loss"], "the loss"), weight, state)

    def measure(given: Given) -> Mapping[str, float]:
        seed_all(given.seed)
        made = evaluate(_arrays(given.model), _arrays(given.columns), dict(given.options))
        if not isinstance(made, dict):
            raise result_refused("evaluate returns a dict of numbers by name")
        return {name: _number(value, f"the metric {name!r:.40}") for name, value in made.items()}

    return OwnPlan("function", make, train, measure, dict(metrics), check)


def _arrays(tensors: Tensors) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def _tensors(arrays: object, what: str) -> Tensors:
    if not isinstance(arrays, dict) or not all(isinstance(name, str) for name in arrays):
        raise result_refused(f"{what} is a dict of arrays by name, and not a {type(arrays).__name__}")
    try:
        return {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
    except (TypeError, ValueError) as error:
        raise result_refused(f"{what} has an array that does not hold plain numbers: {error}") from error


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise result_refused(f"{what} is a {type(value).__name__}, and not a number") from error


def _is_direction(item: tuple[object, object]) -> bool:
    name, direction = item
    return isinstance(name, str) and NAME.fullmatch(name) is not None and name != "loss" and direction in ("max", "min")


def _incomplete(entry: str, why: str) -> PlanError:
    return PlanError(
        "plan_incomplete",
        f"The plan {entry} is incomplete: {why}.",
        "A function plan defines initial(seed, options), fit(model, columns, call) and evaluate(model, columns, "
        "options), and if it likes metrics.",
        "Compare it with the plan that `foedus new --kind function DIR` makes.",
    )
