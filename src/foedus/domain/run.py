"""A run: what is asked for (run.toml, validated). The moves of its life are in :mod:`foedus.domain.lifecycle`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foedus.domain.checkpoint import CHECKPOINTERS, CheckpointerTable, CheckpointTable
from foedus.domain.stop import StopTable
from foedus.domain.table import Name, PositiveInt, Share, Table, Text, override, read_toml, validate
from foedus.domain.timing import ScheduleTable, SynchronousTable, TimeTable
from foedus.domain.track import TrackTable
from foedus.domain.trainer import TrainerTable
from foedus.domain.training_args import TrainingArgs, resolved


class StrategyTable(BaseModel):
    """How the run learns: the name of a strategy, and its options, which the strategy itself validates."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: Text

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.__pydantic_extra__ or {})


Selecting = Literal["uniform", "fastest"]


class CohortTable(Table):
    """Whom a round asks: ``size`` clients, or a ``fraction`` of the population (at least one; McMahan et al. 2017).

    ``minimum`` contributions are needed to close a round (default: half of those asked, rounded up). ``population``
    is how many clients a live run waits for before round 1 (default: ``size``, or 1 with ``fraction``).
    ``over_selection`` asks so many times ``size``, and the phase closes when ``size`` reported (Bonawitz et al. 2019).
    ``selector``: uniformly at random, or the ``fastest`` by the speed that clients reported.
    """

    size: PositiveInt | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    minimum: PositiveInt | None = None
    population: PositiveInt | None = None
    over_selection: Annotated[float, Field(ge=1, le=100)] = 1.0
    selector: Selecting = "uniform"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.size is None) == (self.fraction is None):
            raise ValueError("give exactly one of `size` and `fraction`")
        if self.over_selection > 1 and self.size is None:
            raise ValueError("`over_selection` needs `size`, the number at which a phase closes")
        return self

    def wanted(self, population: int) -> int:
        """How many contributions a round wants of a population of so many clients.

        >>> CohortTable(size=3).wanted(10), CohortTable(fraction=0.25).wanted(10)
        (3, 2)
        """
        return self.size or max(1, round((self.fraction or 0.0) * population))


class PartitionTable(BaseModel):
    """How a dataset is divided among simulated clients: the name of a partitioner, and its options.

    ``clients``: how many there are, where the data do not say.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: Text
    clients: PositiveInt | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name and the number of clients."""
        return dict(self.__pydantic_extra__ or {})


class AlignTable(Table):
    """Tables of sites that differ, read to the same columns in the same numbers (:mod:`foedus.data.align`).

    By a loading plan of the researcher's, the file ``loading`` beside run.toml; by the columns of one ``client``; or by
    those of so many ``clients``, united (default: as many as the run waits for; in simulation all).
    """

    loading: Text | None = None
    client: Name | None = None
    clients: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(given is not None for given in (self.loading, self.client, self.clients)) > 1:
            raise ValueError("give one of `loading`, `client` and `clients`")
        return self


class DataTable(Table):
    """The data: live, only ``tags``, ``label`` and ``align`` count; in simulation everything else.

    ``folder`` and ``file`` say where data lie that are not bundled. ``client`` names the column whose values are the
    clients; where there is none, ``partition`` divides. ``label`` names the column that partitions see. ``held_out``
    belongs to no client: a share, or ``"test"`` for the data set's own test part. ``cache``: MiB of prepared clients
    that each process of a simulation keeps at most. ``options`` are the source's own. ``align``: the sites' tables
    differ; ``label`` then names the column that is learnt.
    """

    name: Text
    tags: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    folder: Text | None = None
    file: Text | None = None
    client: Text | None = None
    label: Text = "label"
    held_out: Share | Literal["test"] | None = None
    cache: PositiveInt = 1024
    options: dict[str, Any] = Field(default_factory=dict)
    partition: PartitionTable | None = None
    align: AlignTable | None = None

    @property
    def asks_sites(self) -> bool:
        """Whether the columns of sites decide how tables are read: not where the researcher's loading plan does."""
        return self.align is not None and self.align.loading is None

    @model_validator(mode="before")
    @classmethod
    def _tuple_of_tags(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("tags"), list):
            return {**value, "tags": tuple(value["tags"])}
        return value


class TestTable(Table):
    """The test phase: the share of each client's examples that is kept for testing; ``every`` so many rounds.

    ``validation``: another share, kept from training and testing and measured as well: for what chooses between models.

    ``on_global_updates``: a client that is asked to train first measures the model that it received on its test part,
    and ``on_local_updates``: what it has made of it, after training. ``shuffle``: the test part is drawn anew in each
    round, and is else the same in all of them. A ``ratio`` of 1 is for runs that only evaluate.

    ``central_every`` so many rounds a simulation measures the model on the held-out part as well (0: only at the end).
    """

    __test__ = False

    ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    on_global_updates: bool = False
    on_local_updates: bool = False
    shuffle: bool = False
    every: PositiveInt = 1
    central_every: Annotated[int, Field(ge=0, le=2**53)] = 0


CHECKS = ("on_global_updates", "on_local_updates", "shuffle")
"""The keys of ``[test]`` that say what clients measure around their training."""


class RunSpec(Table):
    """run.toml, resolved: every key with its value.

    ``training = false``: every round only evaluates, and no weight changes. ``initial``: a safetensors file, beside
    run.toml, with the model that the run begins with, in place of one that the seed gives. ``training_args``: arguments
    by their names in Fed-BioMed, which stand in their own places once the run is resolved.
    """

    plan: Text
    rounds: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    name: Name | None = None
    training: bool = True
    initial: Text | None = None
    training_args: TrainingArgs | None = None
    strategy: StrategyTable
    cohort: CohortTable
    data: DataTable
    test: TestTable = TestTable()
    trainer: TrainerTable = TrainerTable()
    checkpoint: CheckpointTable = CheckpointTable()
    checkpointer: Annotated[list[CheckpointerTable], Field(max_length=CHECKPOINTERS)] = Field(default_factory=list)
    schedule: ScheduleTable = SynchronousTable()
    time: TimeTable | None = None
    stop: StopTable | None = None
    track: TrackTable = TrackTable()

    @model_validator(mode="after")
    def _schedule_and_cohort(self) -> Self:
        if self.schedule.name != "synchronous" and self.cohort.size is None:
            raise ValueError(f"the schedule `{self.schedule.name}` needs `cohort.size`, and not a fraction")
        if self.schedule.name != "synchronous" and self.cohort.over_selection > 1:
            raise ValueError(f"`cohort.over_selection` has no meaning under the schedule `{self.schedule.name}`")
        if self.schedule.name != "synchronous" and self.cohort.selector != "uniform":
            raise ValueError(f"under the schedule `{self.schedule.name}`, say `schedule.selector`")
        return self

    @model_validator(mode="after")
    def _last_round_is_known(self) -> Self:
        if self.stop is not None and not self.trainer.model_test_after_each_round:
            raise ValueError(
                "`trainer.model_test_after_each_round = false` tests after the last round, "
                "and a run with `stop` does not know beforehand which one that is"
            )
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.training and self.test.ratio == 1:
            raise ValueError("`test.ratio` is 1, which leaves nothing to train on; it goes with `training = false`")
        if not self.training and self.test.ratio == 0 and self.test.validation == 0:
            raise ValueError("`training` is false and `test.ratio` is 0, so there is nothing to evaluate on")
        if not self.training and self.stop is not None:
            raise ValueError("`training` is false, so nothing gets better, and `stop` has no meaning")
        if not self.training and self.schedule.name != "synchronous":
            raise ValueError(f"`training` is false, and the schedule `{self.schedule.name}` orders training")
        return self


def run_file(path: Path) -> Path:
    """The run.toml that is meant: ``path`` itself, or the one in it where it is a folder."""
    return path / "run.toml" if path.is_dir() else path


def read_run(path: Path, overrides: Mapping[str, str]) -> RunSpec:
    """The validated run of a TOML file, or of a folder's, with overrides such as ``{"strategy.local.lr": "0.05"}``.

    Raises:
        ConfigError: ``config_missing``, ``config_malformed``, ``config_refused``, ``override_refused``.
    """
    path = run_file(path)
    table = read_toml(path)
    for key, text in overrides.items():
        override(table, key, text)
    return parse_spec(table, path.name)


def parse_spec(table: Mapping[str, Any], where: str = "run.toml") -> RunSpec:
    """The validated run.

    Raises:
        ConfigError: ``config_refused``, with every wrong key, what is allowed there, and the nearest right name.
    """
    return validate(RunSpec, resolved(table, where), where)
