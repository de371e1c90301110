"""The schedule that [schedule] of run.toml names."""

from __future__ import annotations

from foedus.domain.errors import ConfigError
from foedus.domain.run import CohortTable
from foedus.domain.timing import BufferedTable, CyclicTable, ScheduleTable, SynchronousTable, TimedTable
from foedus.schedules.buffered import buffered
from foedus.schedules.cyclic import cyclic
from foedus.schedules.schedule import Schedule
from foedus.schedules.selectors import check_size
from foedus.schedules.synchronous import synchronous
from foedus.schedules.timed import timed


def schedule_of(table: ScheduleTable, cohort: CohortTable) -> Schedule:
    """The schedule of training phases."""
    concurrency = cohort.size or 0
    match table:
        case SynchronousTable():
            return synchronous(cohort.minimum, table.deadline, cohort.size)
        case BufferedTable():
            return buffered(table, concurrency)
        case TimedTable():
            return timed(table, concurrency)
        case CyclicTable():
            return cyclic(table)


def check_population(table: ScheduleTable, cohort: CohortTable, count: int) -> None:
    """Refuse what ``count`` clients can never come to.

    Raises:
        QuorumError: ``population_too_small``.
        ConfigError: ``buffer_too_large``.
    """
    check_size(cohort.size or 0, count)
    if isinstance(table, BufferedTable) and table.buffer > count:
        raise ConfigError(
            "buffer_too_large",
            f"The buffer waits for {table.buffer} contributions, and there are {count} clients.",
            "A client contributes once to a buffer.",
            "Lower `schedule.buffer`, or bring more clients.",
        )


def contributions(table: ScheduleTable, cohort: CohortTable, count: int) -> int:
    """How many contributions of ``count`` clients a round takes, about.

    >>> contributions(CyclicTable(name="cyclic"), CohortTable(size=4), 10)
    1
    """
    match table:
        case BufferedTable():
            return table.buffer
        case CyclicTable():
            return 1
        case _:
            return cohort.wanted(count)
