"""What a simulation came to, as a notebook shows it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from foedus.api.inputs import NO_FILES
from foedus.domain.errors import UsageError
from foedus.domain.plan import PlanBundle
from foedus.domain.round import RoundRecord
from foedus.domain.run import RunSpec
from foedus.domain.tree import Tensors, model_digest
from foedus.engine.choice import Choice
from foedus.engine.folder import RunFolder, choose_folder
from foedus.engine.history import History, as_columns
from foedus.engine.report import curve_figures, facts_list
from foedus.engine.results import Outcome, close_folder, how_it_ran

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STYLE = """<style>
.foedus { --line: #8886; } .foedus dl, .foedus .figures { display: flex; flex-wrap: wrap; gap: .6rem 1.6rem; }
.foedus dl, .foedus dd, .foedus figure { margin: 0; } .foedus dt { opacity: .7; font-size: .85em; }
.foedus figure { flex: 1 1 20rem; max-width: 32rem; } .foedus svg { width: 100%; height: auto; }
.foedus .legend { display: flex; flex-wrap: wrap; gap: 0 1rem; list-style: none; margin: 0; padding: 0; }
.foedus .legend i { display: inline-block; width: .8rem; height: .25rem; margin-right: .4rem; vertical-align: middle; }
</style>"""


@dataclass(frozen=True)
class Result:
    """A run that was simulated: its records, its model, and what it measured.

    ``rounds`` has a record per round; ``held_out`` the loss and the metrics of the final model on the part that belongs
    to no client; ``model`` parameters and buffers by name; ``choice`` the kernel, the executor, and why. Where they are
    so, ``stopped`` says why the run ended before its last round, and ``folder`` where it was recorded.
    """

    name: str
    spec: RunSpec
    rounds: Sequence[RoundRecord]
    model: Tensors
    held_out: Mapping[str, float]
    seconds: float
    choice: Choice
    stopped: str = ""
    folder: Path | None = None
    bundle: PlanBundle = field(default=NO_FILES, repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The last round's metrics, as ``test/accuracy``, and those of the held-out part, as ``held_out/accuracy``."""
        return self.outcome.final(self.history)

    @cached_property
    def model_digest(self) -> str:
        """The digest of the model, which is the same wherever the same bits came out."""
        return model_digest(self.model)

    @cached_property
    def history(self) -> History:
        """The rounds in short."""
        return History(self.rounds)

    def to_dataframe(self, clients: bool = False) -> pd.DataFrame:
        """A pandas table with a row per round, or with a row per round, phase and client where ``clients`` is true.

        Raises:
            UsageError: ``extra_missing`` without pandas.
        """
        pandas = _pandas()
        if clients:
            return pandas.DataFrame(list(_receipts(self.rounds)))
        return pandas.DataFrame([as_columns(row) for row in self.history.rows])

    def plot(self) -> Figure:
        """The curves of every metric, as a matplotlib figure."""
        picture = importlib.import_module("foedus.engine.picture")  # matplotlib is loaded by who draws
        figure: Figure = picture.curves_figure(self.history.rows)
        return figure

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write a run's folder, as ``foedus simulate`` does: records, summary, report and model.

        Raises:
            ConflictError: ``run_exists``, ``folder_in_use``; with ``force`` an earlier run's folder is replaced.
            StorageError: ``folder_unwritable``.
        """
        path = choose_folder(Path(folder), self.name, datetime.now(UTC), force=force)
        written = RunFolder(path, self.spec, self.bundle)
        written.environment(asdict(self.choice))
        for record in self.rounds:
            written.round(record)
        written.finished(self.model)
        close_folder(written, self.spec, self.outcome)
        return path

    @property
    def outcome(self) -> Outcome:
        """The end of the run, as summary and report tell it."""
        facts = how_it_ran(self.choice, self.stopped)
        return Outcome(self.name, "completed", self.model_digest, self.seconds, self.held_out, facts)

    def __repr__(self) -> str:
        """The metrics in a line."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"Result({self.name}, rounds {len(self.rounds)}: {metrics})"

    def _repr_html_(self) -> str:
        """Facts and curves, for a notebook; it follows the notebook's colours."""
        facts = {"run": self.name, "rounds": str(len(self.rounds))}
        facts |= {name: f"{value:.4f}" for name, value in self.metrics.items()}
        facts |= {"seconds": f"{self.seconds:.1f}", "kernel": self.choice.kernel, "executor": self.choice.executor}
        stopped = f"<p>{escape(self.stopped)}</p>" if self.stopped else ""
        figures = "".join(curve_figures(self.history.rows))
        return f'<div class="foedus">{STYLE}{facts_list(facts)}{stopped}<div class="figures">{figures}</div></div>'


def _receipts(rounds: Sequence[RoundRecord]) -> Iterator[dict[str, Any]]:
    for record in rounds:
        for phase in record.phases:
            for receipt in phase.receipts:
                place = {"round": record.round, "phase": phase.phase, "client": receipt.client}
                told = {"seconds": receipt.seconds, "bytes": receipt.size, "failure": receipt.failure}
                yield {**place, **receipt.weights, **receipt.metrics, **told}


def _pandas() -> ModuleType:
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise UsageError(
            "extra_missing",
            "pandas is not installed.",
            "to_dataframe() returns a pandas table; pandas is in the extra `notebook`.",
            "pip install 'foedus[notebook]'",
        ) from error
