"""What a client sends of its work, where that is not what the work itself would send."""

from __future__ import annotations

from dataclasses import replace

from foedus.domain.round import Broadcast
from foedus.domain.tree import State
from foedus.local.work import Account, Carry, Finished, LocalWork, Objective, WorkBuilder


def ends(work: WorkBuilder) -> WorkBuilder:
    """The parameters that a client ended with, in place of how far they moved."""

    def build(objective: Objective) -> LocalWork:
        local = work(objective)

        def finish(broadcast: Broadcast, carry: Carry) -> Finished:
            finished, start = local.finish(broadcast, carry), broadcast.tensors["model"]
            moved = finished.update.get("parameters", {})
            parameters = {"parameters": {name: start[name] - moved[name] for name in moved}} if moved else {}
            return replace(finished, update={**finished.update, **parameters})

        return replace(local, finish=finish)

    return build


def equally(work: WorkBuilder, weight: str) -> WorkBuilder:
    """A further ``weight``, which is 1 for every client."""

    def build(objective: Objective) -> LocalWork:
        local = work(objective)

        def account(examples: int, state: State) -> Account:
            made = local.account(examples, state)
            return replace(made, weights={**made.weights, weight: 1.0})

        return replace(local, account=account)

    return build
