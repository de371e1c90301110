"""Tensors that stay with each client: merged into the model that is received, and never sent.

Arivazhagan et al., Federated Learning with Personalization Layers (2019, https://arxiv.org/abs/1912.00818), Algorithm
1; Li et al., FedBN (ICLR 2021, https://arxiv.org/abs/2102.07623), is the same with the tensors of BatchNorm. They are
the part ``personal`` of the client's state; a client that has none yet begins with the model's.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace

from foedus.domain.errors import ConfigError
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.tree import State
from foedus.local.work import Carry, Finished, LocalWork, Objective, WorkBuilder

PERSONAL = "personal"


def personal_names(patterns: Sequence[str], known: Iterable[str]) -> frozenset[str]:
    """The tensors that the patterns (``head.*``) name, of those the model is made of.

    Raises:
        ConfigError: ``strategy_unsound`` where a pattern names none.

    >>> sorted(personal_names(["head.*"], ["body.weight", "head.weight", "head.bias"]))
    ['head.bias', 'head.weight']
    """
    names = tuple(known)
    found = {pattern: {name for name in names if fnmatch.fnmatchcase(name, pattern)} for pattern in patterns}
    for pattern, matched in found.items():
        if not matched:
            raise ConfigError(
                "strategy_unsound",
                f"`strategy.local.personal` has `{pattern[:80]}`, which names no tensor that is sent.",
                f"The model sends {', '.join(names[:20])}{', …' if len(names) > 20 else ''}.",
                "Correct the pattern, or leave it out.",
            )
    return frozenset().union(*found.values())


def merging(work: WorkBuilder) -> WorkBuilder:
    """The work on a client's own model: what came down, with the tensors in it that are the client's."""

    def build(objective: Objective) -> LocalWork:
        local = work(objective)

        def init(broadcast: Broadcast, state: State, rng: Randomness) -> Carry:
            model = {**broadcast.tensors["model"], **state.tensors.get(PERSONAL, {})}
            return local.init(replace(broadcast, tensors={**broadcast.tensors, "model": model}), state, rng)

        return replace(local, init=init)

    return build


def keeping(work: WorkBuilder, names: frozenset[str]) -> WorkBuilder:
    """The work on a client's own model, which keeps these tensors in its state and sends the others."""

    def build(objective: Objective) -> LocalWork:
        local = merging(work)(objective)

        def finish(broadcast: Broadcast, carry: Carry) -> Finished:
            finished, end = local.finish(broadcast, carry), carry["model"]
            sent = {
                part: {name: tensor for name, tensor in tensors.items() if name not in names}
                for part, tensors in finished.update.items()
            }
            own = {name: end[name].clone() for name in sorted(names)}
            update = {part: tensors for part, tensors in sent.items() if tensors}
            return replace(finished, update=update, state={**finished.state, PERSONAL: own})

        return replace(local, finish=finish)

    return build
