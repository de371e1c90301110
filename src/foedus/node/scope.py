"""How far an owner's approval of a plan goes: datasets, strategies, rounds, expiry and resources. Free of torch.

An approval without bounds is one for all that the node's policy allows; with bounds it allows less, and never more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from foedus.domain.table import PositiveInt, Table, Text
from foedus.node.policy import matches

Patterns = Annotated[tuple[Text, ...], Field(max_length=100, strict=False)]


class Scope(Table):
    """What an approval covers. Empty or none: no bound of the approval's own.

    ``datasets`` and ``strategies`` are names or patterns (``fed*``). ``rounds``: the last round of a run. ``until``:
    Unix seconds. The others bound a run's process, where they are less than the policy's: bytes of memory and of its
    private folder, processes, seconds of a processor.
    """

    datasets: Patterns = ()
    strategies: Patterns = ()
    rounds: PositiveInt | None = None
    until: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    memory: Annotated[int, Field(ge=64 << 20)] | None = None
    temporary: Annotated[int, Field(ge=1 << 20)] | None = None
    processes: PositiveInt | None = None
    cpu_seconds: PositiveInt | None = None

    @property
    def resources(self) -> Mapping[str, int]:
        """The bounds of a run's process that the approval has."""
        named = ("memory", "temporary", "processes", "cpu_seconds")
        return {name: value for name in named if (value := getattr(self, name)) is not None}


UNBOUNDED = Scope()
"""All that the node's policy allows."""


@dataclass(frozen=True)
class Use:
    """What an approved plan is to be used for."""

    dataset: str
    strategy: str
    round: int
    held: bool
    """Whether the work runs in a sandbox, which is what holds a process to its resources."""


def outside(scope: Scope, use: Use, now: float) -> Iterator[tuple[str, str]]:
    """Every rule by which a use is outside of the approval, and in words why.

    >>> list(outside(Scope(rounds=2), Use("ward-a", "fedavg", 3, True), 0.0))
    [('rounds', 'The approval is for the first 2 rounds of a run.')]
    """
    if scope.datasets and not matches(use.dataset, scope.datasets):
        yield "dataset", "The approval is for other datasets."
    if scope.strategies and not matches(use.strategy, scope.strategies):
        yield "strategy", f"The approval is for {', '.join(scope.strategies)}, and not for {use.strategy}."
    if scope.rounds is not None and use.round > scope.rounds:
        yield "rounds", f"The approval is for the first {scope.rounds} rounds of a run."
    if scope.until is not None and now >= scope.until:
        yield "expired", f"The approval was good until {_day(scope.until)}."
    if scope.resources and not use.held:
        yield "resources", "The approval bounds what the work may take, and only a sandbox can hold it to that."


def in_words(scope: Scope) -> list[str]:
    """The bounds of an approval in words; empty where it has none.

    >>> in_words(Scope(strategies=("fedavg",), rounds=5))
    ['the strategy fedavg', 'the first 5 rounds of a run']
    """
    lines = [f"the dataset{'s' * (len(scope.datasets) > 1)} {', '.join(scope.datasets)}"] if scope.datasets else []
    strategies = f"the strateg{'ies' if len(scope.strategies) > 1 else 'y'} {', '.join(scope.strategies)}"
    lines += [strategies] if scope.strategies else []
    lines += [f"the first {scope.rounds} rounds of a run"] if scope.rounds is not None else []
    lines += [f"until {_day(scope.until)}"] if scope.until is not None else []
    lines += [f"{name} {value}" for name, value in scope.resources.items()]
    return lines


def parse_scope(kept: Mapping[str, Any]) -> Scope:
    """The scope that the vault keeps.

    Raises:
        ValidationError: where it is none.
    """
    return Scope.model_validate(dict(kept))


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
