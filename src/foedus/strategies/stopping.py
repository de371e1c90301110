"""The end of a round: go on to the next one, or stop the run early (Prechelt, Early Stopping, But When?, 1998).

What decides stands in the strategy's state, so a run that is resumed, live or simulated, decides as if it had never
been interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from foedus.domain.errors import ConfigError
from foedus.domain.plain import Json
from foedus.domain.run import RunSpec
from foedus.domain.stop import StopTable
from foedus.domain.table import nearest
from foedus.domain.tree import State

End = Callable[[State, Mapping[str, float]], State]
"""``(state, the round's metrics) → the state at the beginning of the next round``."""

BEST, STOPPED = "best", "stopped"


def ending(spec: RunSpec, directions: Mapping[str, str]) -> End:
    """How a run's rounds end; ``directions`` says ``max`` or ``min`` for the loss and for each of the plan's metrics.

    Raises:
        ConfigError: ``stop_refused`` where the metric would never be measured.
    """
    stop = spec.stop
    if stop is None:
        return lambda state, metrics: next_round(state)
    direction = _direction(spec, stop, directions)

    def end(state: State, metrics: Mapping[str, float]) -> State:
        after = next_round(state)
        return replace(after, data={**after.data, **_judge(stop, direction, state, metrics)})

    return end


def stopped(state: State) -> str:
    """Why the run is over before its last round; empty where it is not.

    >>> stopped(State())
    ''
    """
    return str(state.data.get(STOPPED, ""))


def go_on(state: State) -> State:
    """The state of a run that goes on although it stopped.

    >>> go_on(State(data={"round": 3, "stopped": "enough"})).data
    {'round': 3}
    """
    return replace(state, data={key: value for key, value in state.data.items() if key != STOPPED})


def next_round(state: State) -> State:
    """The state at the beginning of the next round."""
    return replace(state, data={**state.data, "round": _number(state) + 1, "phase": 0})


def _judge(stop: StopTable, direction: str, state: State, metrics: Mapping[str, float]) -> dict[str, Json]:
    """What changes in the state's data: the best ``[value, round]`` so far, and perhaps why the run is over."""
    number, value = _number(state), metrics.get(stop.metric)
    known = state.data.get(BEST)
    best = (float(str(known[0])), int(str(known[1]))) if isinstance(known, list) else None
    if value is None or not math.isfinite(value):
        return {}
    sign = 1.0 if direction == "max" else -1.0
    if best is None or sign * value > sign * best[0] + stop.delta:
        best = (value, number)
    kept: dict[str, Json] = {BEST: [best[0], best[1]]}
    if number < stop.minimum:
        return kept
    if stop.target is not None and sign * value >= sign * stop.target:
        return {**kept, STOPPED: f"{stop.metric} reached {value:.6g} in round {number}; the target is {stop.target:g}"}
    if stop.patience is not None and number - best[1] >= stop.patience:
        since = f"{stop.metric} has not improved since round {best[1]} ({best[0]:.6g}); patience is {stop.patience}"
        return {**kept, STOPPED: f"{since} rounds"}
    return kept


def _number(state: State) -> int:
    return int(str(state.data["round"]))


def _direction(spec: RunSpec, stop: StopTable, directions: Mapping[str, str]) -> str:
    place, _, name = stop.metric.partition("/")
    if name not in directions:
        measured = [metric for metric in directions if place != "train" or metric == "loss"]
        known = ", ".join(f"{place}/{metric}" for metric in measured)
        raise _refused(stop.metric, f"The plan has no metric `{name}`.{nearest(name, directions)}", f"Use {known}.")
    if place == "train" and name != "loss":
        raise _refused(stop.metric, "In training only the loss is measured.", f"Use train/loss, or test/{name}.")
    if place == "validation" and spec.test.validation == 0:
        raise _refused(stop.metric, "`test.validation` is 0, so no client validates.", "Raise `test.validation`.")
    if place == "test" and spec.trainer.skip_model_tests:
        raise _refused(stop.metric, "`trainer.skip_model_tests` is set.", "Leave it out, or stop by train/loss.")
    if place == "test" and spec.test.ratio == 0:
        raise _refused(stop.metric, "`test.ratio` is 0, so no client tests.", "Raise `test.ratio`.")
    if place == "central" and not spec.test.central_every:
        raise _refused(stop.metric, "Nothing is measured centrally.", "Set `test.central_every` and `data.held_out`.")
    return directions[name]


def _refused(metric: str, why: str, fix: str) -> ConfigError:
    return ConfigError("stop_refused", f"`stop.metric` is `{metric}`, which would never be measured.", why, fix)
