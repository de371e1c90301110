"""Sweeps: one run for every combination of options and seeds, and what each combination came to.

The mean and the sample standard deviation (over seeds) of each metric of the finished runs of a setting are compared;
a setting's runs that failed are counted, and left out of both.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foedus.domain.errors import UsageError
from foedus.domain.plain import Json
from foedus.domain.text import cell
from foedus.engine.charts import bar_chart
from foedus.engine.metrics import ranked
from foedus.engine.report import facts_list, figure, html_table, page

RUNS_LIMIT = 10_000


@dataclass(frozen=True)
class Setting:
    """One combination of options: key → value, both as texts of run.toml. ``name`` is a folder's."""

    name: str
    options: Mapping[str, str]

    @property
    def words(self) -> str:
        """The options as people read them."""
        return " ".join(f"{key}={value}" for key, value in self.options.items()) or "as it is"


@dataclass(frozen=True)
class Planned:
    """One run of a sweep, in the folder ``name``."""

    name: str
    setting: Setting
    seed: int

    @property
    def overrides(self) -> dict[str, str]:
        """What is set in run.toml."""
        return {**self.setting.options, "seed": str(self.seed)}


@dataclass(frozen=True)
class Ended:
    """A run that has ended: ``completed``, or why not in ``status`` and ``error``."""

    planned: Planned
    status: str
    metrics: Mapping[str, float]
    seconds: float = 0.0
    model_digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class Row:
    """What a setting came to: per metric the mean, and the standard deviation (NaN of a single run)."""

    setting: Setting
    metrics: Mapping[str, tuple[float, float]]
    completed: int
    runs: int
    best: bool = False


def planned(options: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> list[Planned]:
    """Every combination of the options' values with every seed.

    Raises:
        UsageError: ``sweep_too_large``.
    """
    count = math.prod(map(len, options.values())) * len(seeds)
    if count > RUNS_LIMIT:
        raise UsageError("sweep_too_large", f"That are {count} runs; the limit is {RUNS_LIMIT}.", "", "Sweep less.")
    combinations = list(itertools.product(*options.values()))
    width = max(2, len(str(len(combinations))))
    settings = [
        Setting(f"{number:0{width}}", dict(zip(options, values, strict=True)))
        for number, values in enumerate(combinations, 1)
    ]
    return [Planned(f"{setting.name}-seed{seed}", setting, seed) for setting in settings for seed in seeds]


def compared(ended: Sequence[Ended], measure: str, direction: str) -> list[Row]:
    """A row per setting, in order; the best by the mean of ``measure`` is marked, where there is more than one."""
    rows = []
    for _, group in itertools.groupby(ended, key=lambda run: run.planned.setting.name):
        runs = list(group)
        setting = runs[0].planned.setting
        done = [run for run in runs if run.status == "completed"]
        names = ranked({name for run in done for name in run.metrics})
        rows.append(Row(setting, {name: _mean(done, name) for name in names}, len(done), len(runs)))
    means = [row.metrics[measure][0] for row in rows if measure in row.metrics]
    usable = [mean for mean in means if math.isfinite(mean)]
    best = (max(usable) if direction == "max" else min(usable)) if usable and len(rows) > 1 else math.nan
    return [
        Row(row.setting, row.metrics, row.completed, row.runs, row.metrics.get(measure, (math.nan, 0.0))[0] == best)
        for row in rows
    ]


def _mean(runs: Sequence[Ended], name: str) -> tuple[float, float]:
    values = [run.metrics[name] for run in runs if name in run.metrics]
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def measure_of(directions: Mapping[str, str], names: Sequence[str]) -> tuple[str, str]:
    """The metric by which settings are compared, and whether ``max`` or ``min`` is better.

    On the held-out part where there is one; what is to be improved rather than the loss.

    >>> measure_of({"loss": "min", "accuracy": "max"}, ["test/accuracy", "held_out/loss", "held_out/accuracy"])
    ('held_out/accuracy', 'max')
    """
    order = sorted(ranked(names), key=lambda name: not name.startswith("held_out/"))
    first = order[0] if order else ""
    return first, directions.get(first.rpartition("/")[2], "max")


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """A row of the table for people: the setting, how many runs finished, and ``mean ± deviation`` per metric."""
    shown = [_shown(row.metrics.get(name)) for name in names]
    return [f"{'* ' if row.best else ''}{row.setting.words}", f"{row.completed}/{row.runs}", *shown]


def _shown(value: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    mean, deviation = value
    return f"{mean:.4f}" if math.isnan(deviation) else f"{mean:.4f} ± {deviation:.4f}"


def names_of(rows: Sequence[Row]) -> list[str]:
    """The metrics of a table, those of the held-out part first."""
    return sorted(
        ranked({name for row in rows for name in row.metrics}), key=lambda name: not name.startswith("held_out/")
    )


def as_json(rows: Sequence[Row], ended: Sequence[Ended]) -> dict[str, Json]:
    """The whole result for programs."""
    runs: list[Json] = [
        {
            "folder": run.planned.name,
            "setting": run.planned.setting.name,
            "seed": run.planned.seed,
            "status": run.status,
            "error": run.error,
            "metrics": dict(run.metrics),
            "model_digest": run.model_digest,
            "seconds": run.seconds,
        }
        for run in ended
    ]
    settings: list[Json] = [
        {
            "setting": row.setting.name,
            "options": dict(row.setting.options),
            "best": row.best,
            "completed": row.completed,
            "runs": row.runs,
            "metrics": {name: {"mean": mean, "deviation": spread} for name, (mean, spread) in row.metrics.items()},
        }
        for row in rows
    ]
    return {"settings": settings, "runs": runs}


def as_csv(ended: Sequence[Ended]) -> str:
    """A line per run: folder, seed, options, metrics."""
    options = list(ended[0].planned.setting.options) if ended else []
    names = ranked({name for run in ended for name in run.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, ["folder", "seed", *options, "status", *names, "seconds", "model_digest"]))
    for run in ended:
        values: list[Any] = [run.planned.name, run.planned.seed, *run.planned.setting.options.values(), run.status]
        measured = [run.metrics.get(name, "") for name in names]
        writer.writerow(map(cell, [*values, *measured, run.seconds, run.model_digest]))
    return text.getvalue()


def as_html(title: str, rows: Sequence[Row], ended: Sequence[Ended], measure: str) -> str:
    """A page with the comparison and every run."""
    names = names_of(rows)
    means = [(row.setting.words, row.metrics[measure][0]) for row in rows if measure in row.metrics]
    failed = sum(run.status != "completed" for run in ended)
    facts = {"settings": str(len(rows)), "runs": str(len(ended)), "not completed": str(failed), "best by": measure}
    table = html_table(["setting", "runs", *names], [cells(row, names) for row in rows])
    runs = html_table(
        ["run", "setting", "seed", "status", *names, "seconds"],
        [
            [
                run.planned.name,
                run.planned.setting.words,
                str(run.planned.seed),
                f"{run.status} {run.error}".strip(),
                *(f"{run.metrics[name]:.4f}" if name in run.metrics else "" for name in names),
                f"{run.seconds:.1f}",
            ]
            for run in ended
        ],
    )
    chart = f'<div class="figures">{figure(f"mean {measure}", bar_chart(means[:40]))}</div>' if means else ""
    note = '<p class="soft">Mean ± sample standard deviation over seeds; * marks the best mean.</p>'
    body = f"{facts_list(facts)}<h2>Settings</h2>{note}{table}{chart}<h2>Runs</h2>{runs}"
    return page(title, "a sweep", body)
