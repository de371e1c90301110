"""Experiment trackers by configuration alone: TensorBoard, MLflow and Weights & Biases are told of each round.

A tracker is told, never asked. One that fails is named in the log and told no more; the run goes on. Its library is an
extra, loaded here when the run's table ``[track]`` names it; one that is missing is refused before round 1.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foedus.domain.errors import ConfigError
from foedus.domain.round import RoundRecord
from foedus.domain.run import RunSpec
from foedus.domain.table import flat
from foedus.domain.track import MlflowTable, WandbTable
from foedus.domain.tree import Tensors
from foedus.engine.history import row_of

log = logging.getLogger("foedus.track")

Values = Mapping[str, float]


@dataclass(frozen=True)
class Tracker:
    """A tracker that was started: what it is told of a round and of the whole run, and how it is ended.

    ``step``: what it is told of the steps of clients' work, where it has a place for them.
    """

    log: Callable[[int, Values], None]
    summarize: Callable[[int, Values], None]
    close: Callable[[], None]
    step: Callable[[int, Values], None] = lambda number, values: None


@dataclass
class Told:
    """An observer that tells a tracker, until the tracker fails."""

    name: str
    tracker: Tracker | None
    last: int = 0

    def round(self, record: RoundRecord) -> None:
        """Tell of a round: its metrics, bytes and seconds."""
        row, self.last = row_of(record), record.round
        costs = {"bytes/down": row.bytes_down, "bytes/up": row.bytes_up, "seconds/wall": row.seconds}
        values = {**row.metrics, **costs, "clients/contributed": row.contributed, "clients/failed": row.failed}
        self._tell(lambda tracker: tracker.log(record.round, _numbers(values)))

    def finished(self, model: Tensors) -> None:
        """The result comes with :meth:`Tracking.result`."""

    def result(self, metrics: Values) -> None:
        """Tell what the run came to."""
        self._tell(lambda tracker: tracker.summarize(self.last, _numbers(metrics)))

    def step(self, who: str, number: int, values: Values) -> None:
        """Tell of a step of somebody's work, which began with the run; ``number`` counts their steps from there."""
        named = {f"work/{who}/{name}": value for name, value in values.items()}
        self._tell(lambda tracker: tracker.step(number, _numbers(named)))

    def close(self) -> None:
        """End the tracker."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            what(self.tracker)
        except Exception as error:  # whatever a foreign library may raise
            self.tracker = None
            _given_up(self.name, error)


@dataclass(frozen=True)
class Tracking:
    """The trackers of a run, as observers."""

    observers: list[Told] = field(default_factory=list)

    def result(self, metrics: Values) -> None:
        """Tell every tracker what the run came to."""
        for told in self.observers:
            told.result(metrics)

    def step(self, who: str, number: int, values: Values) -> None:
        """Tell every tracker of a step of somebody's work."""
        for told in self.observers:
            told.step(who, number, values)


@contextmanager
def tracking(spec: RunSpec, run: str) -> Iterator[Tracking]:
    """Start the trackers that ``[track]`` names, for a run that is called ``run``; they end with the block.

    Raises:
        ConfigError: ``extra_missing``.
    """
    starters = _starters(spec, run)
    tracked = Tracking([Told(name, _started(name, start)) for name, start in starters.items()])
    try:
        yield tracked
    finally:
        for told in tracked.observers:
            told.close()


def _starters(spec: RunSpec, run: str) -> dict[str, Callable[[], Tracker]]:
    """Each tracker's start, its library loaded."""
    track, starters = spec.track, dict[str, Callable[[], Tracker]]()
    options = {k: str(v) for k, v in flat(spec.model_dump(mode="json", exclude={"track"})).items() if v is not None}
    if track.tensorboard is not None:
        board, folder = _library("torch.utils.tensorboard", "tensorboard"), Path(track.tensorboard) / run
        starters["tensorboard"] = lambda: _tensorboard(board, folder, options)
    if (store := track.mlflow) is not None:
        mlflow = _library("mlflow", "mlflow")
        starters["mlflow"] = lambda: _mlflow(mlflow, store, run, options)
    if (project := track.wandb) is not None:
        wandb = _library("wandb", "wandb")
        starters["wandb"] = lambda: _wandb(wandb, project, run, options)
    return starters


def _tensorboard(board: Any, folder: Path, options: Mapping[str, str]) -> Tracker:
    writer = board.SummaryWriter(str(folder))
    writer.add_text("run.toml", "\n".join(f"    {key} = {value}" for key, value in options.items()))

    def tell(number: int, values: Values) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, number)
        writer.flush()

    return Tracker(tell, tell, writer.close, tell)


def _mlflow(mlflow: Any, table: MlflowTable, run: str, options: Mapping[str, str]) -> Tracker:
    """The client is used, not the module's functions, whose one active run is the user's to have."""
    # Without these, a server that is away is waited for during minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # A folder as a store is what was asked for; MLflow says of it that databases have more features.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = table.uri if "://" in table.uri or ":" in table.uri[:12] else Path(table.uri).resolve().as_uri()
    client = mlflow.MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(table.experiment)
    experiment = known.experiment_id if known else client.create_experiment(table.experiment)
    made = client.create_run(experiment, run_name=run).info.run_id
    for key, value in options.items():
        client.log_param(made, key, value[:500])

    def tell(number: int, values: Values) -> None:
        for name, value in values.items():
            client.log_metric(made, name, value, step=number)

    return Tracker(tell, tell, lambda: client.set_terminated(made))


def _wandb(wandb: Any, table: WandbTable, run: str, options: Mapping[str, str]) -> Tracker:
    Path(table.folder).mkdir(parents=True, exist_ok=True)
    made = wandb.init(
        project=table.project, mode=table.mode, dir=table.folder, name=run, config=dict(options), reinit="create_new"
    )
    return Tracker(
        lambda number, values: made.log(dict(values), step=number),
        lambda number, values: made.summary.update(dict(values)),
        made.finish,
    )


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "extra_missing",
            f"`track.{extra}` is set, and its library is not installed.",
            str(error),
            f"pip install 'foedus[{extra}]', or leave `track.{extra}` out.",
        ) from error


def _started(name: str, start: Callable[[], Tracker]) -> Tracker | None:
    try:
        return start()
    except Exception as error:  # whatever a foreign library may raise
        _given_up(name, error)
        return None


def _given_up(name: str, error: Exception) -> None:
    log.warning("The tracker %s failed, and is told no more: %s: %s", name, type(error).__name__, error)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
