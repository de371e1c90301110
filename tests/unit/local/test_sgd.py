"""Local SGD's batches: epochs or a number of updates, from where the client stood, every example once an epoch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.data.batching import permutation
from foedus.domain.rng import Randomness
from foedus.domain.training import LocalOptions
from foedus.domain.tree import State
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan
from foedus.local.sgd import local_sgd
from foedus.local.work import LocalWork

PLAN = TrainingPlan(
    lambda: torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, {}, {}, lambda columns: (columns["x"], columns["y"])
)


def work(options: LocalOptions) -> LocalWork:
    return local_sgd(options)(EagerObjective(PLAN, 1))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 30), st.integers(1, 4))
def test_updates_go_on_where_the_round_before_ended(examples: int, size: int, updates: int, rounds: int) -> None:
    options = LocalOptions(lr=0.1, num_updates=updates, batch_size=size)
    local, state, taken = work(options), State(), list[int]()
    for number in range(1, rounds + 1):
        order = local.order(examples, state, Randomness(7, number, "c0"))
        assert len(order) == updates == options.updates(examples)
        rows = [row for index in order for row in index.tolist()]  # type: ignore[union-attr]
        taken += rows
        assert abs(len(rows) - options.seen(examples)) < size * 2
        state = State({}, dict(local.account(examples, state).data))
    epochs = [row for epoch in range(len(taken) // examples + 1) for row in permutation(7, "c0", epoch, examples)]
    assert taken == [int(row) for row in epochs[: len(taken)]]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_epochs_see_every_example_as_often(examples: int, size: int, epochs: int) -> None:
    options = LocalOptions(lr=0.1, epochs=epochs, batch_size=size)
    local = work(options)
    order = local.order(examples, State(), Randomness(7, 1, "c0"))
    rows = sorted(row for index in order for row in index.tolist())  # type: ignore[union-attr]
    assert rows == sorted([*range(examples)] * epochs) and len(rows) == options.seen(examples)
    assert local.account(examples, State()).data == {"epoch": epochs, "batch": 0}
