"""What every use case of a live run stands on: the database, the blobs, the bells, and a run's strategy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from foedus.coordinator.bells import CLIENTS, Bells
from foedus.coordinator.blob_rows import Quota
from foedus.coordinator.pace import Population
from foedus.coordinator.run_rows import RunRow, find_run, spec_of
from foedus.domain.errors import ConfigError
from foedus.domain.names import check_tensor_name
from foedus.domain.plan import ModelManifest, ModelTensor
from foedus.domain.tree import State, dtypes
from foedus.store.artifacts import Artifacts
from foedus.store.notices import MISSED
from foedus.store.tables import runs
from foedus.store.unit_of_work import Store
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import Phase, RunContext, Strategy, phases_of

OWN_COMMITS = frozenset(
    {
        *("lease", "renew", "contribute", "fail", "open_phase", "close_phase", "commit_round", "tick"),
        *("closing", "blob", "progress", "token_used", "refused", "lead"),
    }
)
"""Commits after which no other client can be ready than before."""


@dataclass(frozen=True)
class Live:
    """The live path's ports. ``lease`` is how long an assignment is leased without a sign of progress, in seconds.

    ``inline``: bytes of a model or update that travels within a message. ``quota``: what one actor may take.
    ``known`` (strategies that were built) and ``population`` are conveniences of this process, not facts.
    """

    store: Store
    artifacts: Artifacts
    bells: Bells = field(default_factory=Bells)
    lease: float = 60.0
    inline: int = 1 << 16
    quota: Quota = field(default_factory=Quota)
    known: dict[str, Strategy] = field(default_factory=dict)
    population: Population = field(default_factory=Population)

    def __post_init__(self) -> None:
        self.store.on_commit(self._heard, lambda name: () if name in OWN_COMMITS else (CLIENTS,))

    def strategy(self, run: RunRow) -> Strategy:
        """The run's strategy; it is built once in a process, since what it is built of never changes."""
        if run.id not in self.known:
            with self.store.reading() as tx:
                manifest = tx.execute(select(runs.c.manifest).where(runs.c.id == run.id)).scalar_one()
            self.known[run.id] = build(RunContext(spec_of(run), parse_manifest(manifest)))
        return self.known[run.id]

    def phase(self, run: RunRow) -> Phase | None:
        """The phase that the run is in; none between rounds."""
        phase = self.strategy(run).phase(State({}, run.data))
        return phase if isinstance(phase, Phase) else None

    def phase_at(self, run: str, number: int, name: str) -> Phase | None:
        """A run's phase of this name in round ``number``, as the strategy has it."""
        strategy = self.known.get(run)
        if strategy is None:
            with self.store.reading() as tx:
                strategy = self.strategy(find_run(tx, run))
        return next((phase for phase in phases_of(strategy, State(), number) if phase.name == name), None)

    def _heard(self, notices: Collection[str]) -> None:
        if MISSED in notices:
            self.bells.ring_all()
        else:
            self.bells.ring(*notices)


def parse_manifest(table: dict[str, Any]) -> ModelManifest:
    """A manifest from JSON.

    Raises:
        ConfigError: ``manifest_refused`` where names are not unique or not plain, or a dtype is unknown.
    """
    rows = [ModelTensor(t["name"], tuple(t["shape"]), t["dtype"], t["kind"], t["module"]) for t in table["tensors"]]
    for row in rows:
        if not check_tensor_name(row.name) or row.dtype not in dtypes:
            raise _manifest_refused(f"The tensor {row.name[:80]!a} has a name or a dtype that is not allowed.")
    if len({row.name for row in rows}) < len(rows):
        raise _manifest_refused("A tensor's name stands twice.")
    return ModelManifest(tuple(rows), dict(table["metrics"]))


def _manifest_refused(why: str) -> ConfigError:
    return ConfigError("manifest_refused", "The model's manifest is refused.", why, "Submit with `foedus run submit`.")
