"""Checkpointers: which of the models that a client sees it keeps, as files, beside what it sends.

A ``pre`` checkpointer sees the client's model when it has trained, before aggregation; a ``post`` one each global model
that was aggregated, as the client has it (its personal tensors in place), before it trains on it or tests it. The two
measure on the same examples: the client's validation part, or its test part where there is none.

The best one is replaced by one that is not worse: of equals, the later stays. NaN and infinity never win.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foedus.data.dataset import ClientData, Examples
from foedus.domain.checkpoint import CheckpointerTable, When
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConfigError
from foedus.domain.rng import untouched
from foedus.domain.round import Ask
from foedus.domain.run import RunSpec
from foedus.domain.saved import SUFFIX
from foedus.domain.table import nearest
from foedus.domain.tree import Tensors
from foedus.local.directions import KNOWN
from foedus.local.evaluate import measure
from foedus.local.plan import Score, TrainingPlan
from foedus.local.work import Measured

PRE: When = "pre"
POST: When = "post"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpointer:
    """One checkpointer, resolved. ``by``: what the best is chosen by; empty where the latest is kept."""

    name: str
    when: When
    by: str = ""
    direction: str = ""

    def wins(self, score: float | None, best: float | None) -> bool:
        """Whether a model with this score takes the place of one with the score ``best`` (none: there is none).

        >>> best = Checkpointer("b", "pre", "accuracy", "max")
        >>> best.wins(-1.0, 0.0), best.wins(0.0, 0.0), best.wins(math.nan, None), best.wins(0.1, math.nan)
        (False, True, False, True)
        """
        if not self.by:
            return True
        if score is None or not math.isfinite(score):
            return False
        if best is None or not math.isfinite(best):
            return True
        return score >= best if self.direction == "max" else score <= best


@dataclass(frozen=True)
class Kept:
    """What is to be kept of one model: the model after so many rounds, for these checkpointers, with their scores."""

    when: When
    round: int
    scores: Mapping[str, float | None]
    content: bytes


Best = Callable[[str], float | None]
"""``checkpointer's name →`` the score of what it keeps; None where it keeps nothing."""

Look = Callable[[When, Tensors], None]
"""``(pre or post, model) →`` look at a model, while a client has it."""


class Directed(Protocol):
    """A plan that measures by itself, and says of each of its metrics which direction is better."""

    @property
    def directions(self) -> Mapping[str, str]:
        """``max`` or ``min`` by the name of a metric."""


def checkpointers_of(
    tables: Sequence[CheckpointerTable], plan: TrainingPlan | Directed, measured: bool
) -> tuple[Checkpointer, ...]:
    """The checkpointers that a run asks for; ``measured``: whether clients have examples to measure them on.

    Raises:
        ConfigError: ``checkpointers_collide``, ``checkpointer_unknown``, ``checkpointer_direction``,
            ``checkpointer_unmeasured``.
    """
    check_files([table.called for table in tables])
    if isinstance(plan, TrainingPlan):
        known, declared = ("loss", *plan.metrics, *plan.scores), plan.declared
    else:
        known, declared = ("loss", *plan.directions), plan.directions
    found = tuple(_resolved(table, known, declared) for table in tables)
    for checkpointer in found:
        if checkpointer.by and not measured:
            raise ConfigError(
                "checkpointer_unmeasured",
                f"The checkpointer `{checkpointer.name}` would never be measured.",
                "`test.ratio` and `test.validation` are 0, so that no client keeps examples to measure a model on.",
                "Raise one of them, or keep the latest.",
            )
    return found


def check_files(names: Collection[str]) -> None:
    """Refuse checkpointers that would write one file, also where a disk does not tell capitals apart.

    Raises:
        ConfigError: ``checkpointers_collide``, which lists the files.
    """
    files = [name + SUFFIX for name in names]
    lower = [file.lower() for file in files]
    twice = sorted({file for file in files if lower.count(file.lower()) > 1})
    if twice:
        raise ConfigError(
            "checkpointers_collide",
            f"Several checkpointers would write {', '.join(twice)}.",
            "One would replace what another keeps.",
            "Give each a `name` of its own.",
        )


def _resolved(table: CheckpointerTable, known: Sequence[str], declared: Mapping[str, str]) -> Checkpointer:
    if table.keep == "latest":
        return Checkpointer(table.called, table.when)
    by = table.by or "loss"
    if by not in known:
        raise ConfigError(
            "checkpointer_unknown",
            f"The checkpointer `{table.called}` keeps the best by `{by}`, which the plan does not have."
            f"{nearest(by, known)}",
            f"There are: {', '.join(known)}.",
            "Name one of them, or add it to the plan's `metrics` or `scores`.",
        )
    direction = table.direction or declared.get(by) or KNOWN.get(by)
    if direction is None:
        raise ConfigError(
            "checkpointer_direction",
            f"Nobody says whether more or less of `{by}` is better.",
            "A wrong guess would keep the worst model.",
            f'Say it: `directions = {{"{by}": "max"}}` in the plan, or `direction` of the checkpointer.',
        )
    return Checkpointer(table.called, table.when, by, direction)


def asked_of(spec: RunSpec, plan: TrainingPlan | Directed) -> tuple[Checkpointer, ...]:
    """The checkpointers of a run.

    Raises:
        ConfigError: as :func:`checkpointers_of`.
    """
    return checkpointers_of(spec.checkpointer, plan, spec.test.ratio > 0 or spec.test.validation > 0)


def watch_of(spec: RunSpec, plan: TrainingPlan | Directed, objective: Measured) -> Watch:
    """What looks at models for a run's checkpointers.

    Raises:
        ConfigError: as :func:`checkpointers_of`.
    """
    return Watch(asked_of(spec, plan), plan.scores if isinstance(plan, TrainingPlan) else {}, objective)


@dataclass
class Watch:
    """Looks at models for checkpointers. ``seen``: the round of the aggregated model that a client had last."""

    checkpointers: Sequence[Checkpointer]
    scores: Mapping[str, Score]
    objective: Measured
    seen: dict[str, int] = field(default_factory=dict)

    def over(self, ask: Ask, data: ClientData, best: Best, keep: Callable[[Kept], None]) -> Look:
        """What looks at the models of one ask; what is to be kept goes to ``keep``."""
        training = ask.phase == "train"
        part = data.validation if len(data.validation) else data.test

        def look(when: When, model: Tensors) -> None:
            number = ask.round if when == PRE or not training else ask.round - 1
            if when == PRE and not training:
                return
            if when == POST and (number == 0 or self.seen.get(ask.client) == number):
                return
            kept = self._chosen(when, number, model, part, best)
            if when == POST:
                self.seen[ask.client] = number
            if kept.scores:
                keep(kept)

        return look

    def _chosen(self, when: When, number: int, model: Tensors, part: Examples, best: Best) -> Kept:
        asked = [each for each in self.checkpointers if each.when == when]
        measured = self._measured(model, part) if any(each.by for each in asked) else {}
        scores = {each.name: self._score(each, measured) for each in asked}
        won = {each.name: scores[each.name] for each in asked if each.wins(scores[each.name], best(each.name))}
        return Kept(when, number, won, encode_tensors(model) if won else b"")

    def _measured(self, model: Tensors, part: Examples) -> Mapping[str, float]:
        """Loss and metrics; what a plan draws at random for them is not drawn from what it trains with."""
        if not len(part):
            return {}
        with untouched():
            return measure(self.objective, model, part)

    def _score(self, checkpointer: Checkpointer, measured: Mapping[str, float]) -> float | None:
        if not checkpointer.by:
            return None
        if not measured or checkpointer.by in measured:
            return measured.get(checkpointer.by, math.nan)
        try:
            return float(self.scores[checkpointer.by](dict(measured)))
        except Exception as error:  # the plan's own code; a model without a score is not kept, and the round goes on
            _log.warning("the score %s failed: %s: %s", checkpointer.by, type(error).__name__, error)
            return math.nan
