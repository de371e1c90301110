"""Runs beside one another, from their folders: what they came to, how fast, and what was asked for differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foedus.domain.errors import ConfigError, NotFoundError
from foedus.domain.table import flat, nearest, read_toml
from foedus.domain.text import duration, size
from foedus.engine.charts import COLOURS, Series, line_chart
from foedus.engine.folder import ENVIRONMENT, ROUNDS, RUN, SUMMARY, is_run
from foedus.engine.history import History, RoundRow
from foedus.engine.json_text import read_json
from foedus.engine.metrics import ranked
from foedus.engine.records import read_records
from foedus.engine.report import figure, html_table, page

ABSENT = "–"
"""What a table shows where a run has nothing to say."""


@dataclass(frozen=True)
class Recorded:
    """A run as its folder tells it. ``directions``: ``max`` or ``min`` by the metric's name without its place."""

    label: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    directions: Mapping[str, str]
    rows: Sequence[RoundRow]

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics."""
        last = self.rows[-1].metrics if self.rows else {}
        return {**last, **{k: v for k, v in self.summary.get("metrics", {}).items() if isinstance(v, float | int)}}

    @property
    def model(self) -> str:
        """The digest of the last model."""
        return self.rows[-1].model if self.rows else ""


@dataclass(frozen=True)
class Goal:
    """A value of a metric that runs are to reach. ``more``: whether more is better."""

    metric: str
    value: float
    more: bool

    def reached(self, rows: Sequence[RoundRow]) -> RoundRow | None:
        """The first round that reached it."""
        met = (row for row in rows if self.metric in row.metrics and self._meets(row.metrics[self.metric]))
        return next(met, None)

    def _meets(self, value: float) -> bool:
        return value >= self.value if self.more else value <= self.value


def read_run(path: Path, label: str) -> Recorded:
    """A run's folder, round by round.

    Raises:
        NotFoundError: ``run_folder_missing``.
        IntegrityError: where its files are not what was written.
    """
    if not is_run(path):
        raise NotFoundError(
            "run_folder_missing",
            f"{path} is not a run's folder.",
            "",
            "`foedus simulate RUN.toml --out DIR` makes one.",
        )
    history = History(read_records(path / ROUNDS))
    summary = read_json(path / SUMMARY) if (path / SUMMARY).is_file() else {"status": "unfinished"}
    directions = read_json(path / ENVIRONMENT).get("directions")
    known = {str(k): str(v) for k, v in directions.items()} if isinstance(directions, dict) else {}
    return Recorded(label, flat(read_toml(path / RUN)), summary, known, history.rows)


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each folder: its own, or its whole path where two have the same.

    >>> labels([Path("runs/a"), Path("other/a"), Path("runs/b")])
    ['runs/a', 'other/a', 'b']
    """
    names = [path.resolve().name if path.name in ("", "..") else path.name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def more_is_better(runs: Sequence[Recorded], metric: str) -> bool:
    """Whether more of a metric is better, as the plans say; where none says so, of a loss less is."""
    name = metric.rpartition("/")[2]
    told = {run.directions[name] for run in runs if name in run.directions}
    return told == {"max"} if told else name != "loss"


def best(run: Recorded, metric: str, more: bool) -> tuple[float, int] | None:
    """The best value of a metric, and the first round that had it."""
    found = [(row.metrics[metric], row.round) for row in run.rows if metric in row.metrics]
    found = [(value, number) for value, number in found if value == value]
    return (max if more else min)(found, key=lambda pair: (pair[0], -pair[1] if more else pair[1])) if found else None


def goal_of(runs: Sequence[Recorded], given: tuple[str, float] | None) -> Goal | None:
    """The goal that was given; else, of what is to be improved first, the best value that every run reached.

    Raises:
        ConfigError: ``metric_unknown``.
    """
    shared = [name for name in ranked(_measured(runs)) if all(_has(run, name) for run in runs)]
    if given is not None:
        if given[0] not in _measured(runs):
            known = ranked(_measured(runs))
            raise ConfigError(
                "metric_unknown",
                f"No run has the metric `{given[0]}`.{nearest(given[0], known)}",
                f"There are: {', '.join(known)}.",
                "Name one of them.",
            )
        return Goal(given[0], given[1], more_is_better(runs, given[0]))
    if not shared:
        return None
    more = more_is_better(runs, shared[0])
    reached = [found[0] for run in runs if (found := best(run, shared[0], more)) is not None]
    return Goal(shared[0], min(reached) if more else max(reached), more) if len(reached) == len(runs) else None


def clocked(run: Recorded) -> bool:
    """Whether the virtual clock says something of a run: its clients have devices, or its rounds overlap."""
    devices = any(key.startswith("time.") for key in run.settings)
    return devices or run.settings.get("schedule.name", "synchronous") != "synchronous"


def comparison(runs: Sequence[Recorded], goal: Goal | None) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "runs": [_described(run, runs, goal) for run in runs],
        "same_model": len({run.model for run in runs}) == 1,
        "goal": asdict(goal) if goal else None,
        "differs": differences(runs),
    }


def differences(runs: Sequence[Recorded]) -> dict[str, list[Any]]:
    """The keys of run.toml that are not the same everywhere, each with every run's value."""
    keys = sorted({key for run in runs for key in run.settings})
    found = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def difference_rows(runs: Sequence[Recorded]) -> list[list[str]]:
    """The same for people: a row per key."""
    found = differences(runs).items()
    return [[key, *(ABSENT if value is None else str(value) for value in values)] for key, values in found]


def comparison_rows(runs: Sequence[Recorded], goal: Goal | None) -> list[list[str]]:
    """The table that people read: a row per fact, a column per run."""
    facts: dict[str, list[str]] = {
        "status": [str(run.summary.get("status", ABSENT)) for run in runs],
        "rounds": [str(len(run.rows)) for run in runs],
    }
    for name in ranked({name for run in runs for name in run.metrics}):
        facts[name] = [f"{run.metrics[name]:.4f}" if name in run.metrics else ABSENT for run in runs]
    for name in ranked(_measured(runs)):
        found = [best(run, name, more_is_better(runs, name)) for run in runs]
        facts[f"best {name}"] = [f"{pair[0]:.4f} (round {pair[1]})" if pair else ABSENT for pair in found]
    if goal is not None:
        met = [goal.reached(run.rows) for run in runs]
        sign = "≥" if goal.more else "≤"
        facts[f"rounds to {goal.metric} {sign} {goal.value:.4f}"] = [str(row.round) if row else ABSENT for row in met]
    facts["time"] = [_time(float(run.summary.get("seconds", _sum(run, "seconds")))) for run in runs]
    if any(map(clocked, runs)):
        facts["virtual time"] = [_time(run.rows[-1].virtual_time) if run.rows else ABSENT for run in runs]
    facts["bytes to clients"] = [size(int(_sum(run, "bytes_down"))) for run in runs]
    facts["bytes from clients"] = [size(int(_sum(run, "bytes_up"))) for run in runs]
    facts["kernel, executor"] = [_engine(run) for run in runs]
    facts["model"] = [run.model[:12] or ABSENT for run in runs]
    return [[name, *values] for name, values in facts.items()]


def comparison_html(runs: Sequence[Recorded], goal: Goal | None) -> str:
    """A page with the table, what differs, and every metric's curves over one another."""
    names = [run.label for run in runs]
    rows = difference_rows(runs)
    differs = html_table(["run.toml", *names], rows) if rows else "<p>Nothing: all were asked for the same.</p>"
    same = "The models are the same, bit for bit." if len({run.model for run in runs}) == 1 else "The models differ."
    charts = "".join(_overlaid(runs, name) for name in ranked(_measured(runs)))
    over_time = _over_time(runs, goal.metric) if goal else ""
    body = (
        f'{html_table(["", *names], comparison_rows(runs, goal))}<p class="soft">{same}</p>'
        f'<h2>Curves</h2><div class="figures">{charts}{over_time}</div><h2>What was asked for differently</h2>{differs}'
    )
    return page("Comparison of runs", ", ".join(names), body)


def _described(run: Recorded, runs: Sequence[Recorded], goal: Goal | None) -> dict[str, Any]:
    tops = {name: best(run, name, more_is_better(runs, name)) for name in ranked(_measured([run]))}
    met = goal.reached(run.rows) if goal else None
    return {
        "run": run.label,
        "status": run.summary.get("status"),
        "rounds": len(run.rows),
        "metrics": run.metrics,
        "best": {name: {"value": pair[0], "round": pair[1]} for name, pair in tops.items() if pair},
        "rounds_to_goal": met.round if met else None,
        "seconds": run.summary.get("seconds", _sum(run, "seconds")),
        "virtual_time": run.rows[-1].virtual_time if run.rows else 0.0,
        "bytes_down": int(_sum(run, "bytes_down")),
        "bytes_up": int(_sum(run, "bytes_up")),
        "kernel": run.summary.get("kernel"),
        "executor": run.summary.get("executor"),
        "model_digest": run.model,
    }


def _overlaid(runs: Sequence[Recorded], metric: str) -> str:
    points = [[(float(row.round), row.metrics[metric]) for row in run.rows if metric in row.metrics] for run in runs]
    return figure(f"{metric} per round", line_chart(_series(runs, points)))


def _over_time(runs: Sequence[Recorded], metric: str) -> str:
    """The metric over time: the virtual clock's where a run has one, else the wall's."""
    virtual = any(map(clocked, runs))
    points = []
    for run in runs:
        spent, line = 0.0, []
        for row in run.rows:
            spent = row.virtual_time if virtual else spent + row.seconds
            line += [(spent, row.metrics[metric])] if metric in row.metrics else []
        points.append(line)
    axis = "virtual seconds" if virtual else "seconds"
    return figure(f"{metric} over {axis}", line_chart(_series(runs, points), axis))


def _series(runs: Sequence[Recorded], points: Sequence[Sequence[tuple[float, float]]]) -> list[Series]:
    return [
        Series(run.label, line, COLOURS[at % len(COLOURS)])
        for at, (run, line) in enumerate(zip(runs, points, strict=True))
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else duration(seconds)


def _engine(run: Recorded) -> str:
    return ", ".join(str(run.summary.get(name, ABSENT)) for name in ("kernel", "executor"))


def _measured(runs: Sequence[Recorded]) -> set[str]:
    return {name for run in runs for row in run.rows for name in row.metrics}


def _has(run: Recorded, metric: str) -> bool:
    return any(metric in row.metrics for row in run.rows)


def _sum(run: Recorded, column: str) -> float:
    return sum(float(getattr(row, column)) for row in run.rows)
