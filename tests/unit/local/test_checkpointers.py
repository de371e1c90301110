"""Checkpointers: what they keep of the models that a client sees, and what is refused before anything runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from foedus.data.dataset import ClientData, Examples
from foedus.domain.checkpoint import CheckpointerTable
from foedus.domain.codec import decode
from foedus.domain.errors import ConfigError
from foedus.domain.round import Ask
from foedus.local.checkpointers import Checkpointer, Kept, Watch, checkpointers_of
from foedus.local.directions import KNOWN
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output > 0) == (target > 0)).float().mean()


PLAN = TrainingPlan(
    lambda: torch.nn.Linear(1, 1, bias=False),
    torch.nn.functional.mse_loss,
    {"accuracy": accuracy, "spread": accuracy},
    {"accuracy": "max", "spread": "max"},
    lambda columns: (columns["x"], columns["y"]),
    {"balance": lambda measured: measured["accuracy"] - measured["loss"], "broken": lambda measured: 1 / 0},
    {"balance": "max", "broken": "max"},
)
EMPTY = Examples(torch.zeros(0, 1), torch.zeros(0, 1))
TESTS = Examples(torch.ones(4, 1), torch.ones(4, 1))


def table(**asked: object) -> CheckpointerTable:
    return CheckpointerTable.model_validate({"when": "pre", **asked})


def refusal(*tables: CheckpointerTable, measured: bool = True) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        checkpointers_of(tables, PLAN, measured)
    return caught.value


class Keeper:
    """Keeps what a watch says, in memory, as a client's folder does on disk."""

    def __init__(self, *tables: CheckpointerTable, plan: TrainingPlan = PLAN) -> None:
        self.watch = Watch(checkpointers_of(tables, plan, True), plan.scores, EagerObjective(plan, 1))
        self.scores: dict[str, float | None] = {}
        self.weights: dict[str, float] = {}
        self.rounds: dict[str, list[int]] = {}

    def see(self, when: str, number: int, weight: float, phase: str = "train", tests: Examples = TESTS) -> None:
        data = ClientData("c0000", train=TESTS, test=tests, validation=EMPTY)
        look = self.watch.over(Ask("c0000", number, phase), data, self.scores.get, self._keep)
        look(when, {"weight": torch.tensor([[weight]])})

    def _keep(self, kept: Kept) -> None:
        for name, score in kept.scores.items():
            self.scores[name] = score
            self.weights[name] = float(decode(kept.content).tensors["weight"][""])
            self.rounds.setdefault(name, []).append(kept.round)


def test_h1_two_checkpointers_of_one_file_are_refused_with_the_files() -> None:
    """H1: whether their names were given or made, and where a disk does not tell capitals apart."""
    for pair in (
        (table(), table()),
        (table(name="mine"), table(when="post", name="mine")),
        (table(name="Mine"), table(when="post", name="mine")),
        (table(keep="best"), table(keep="best", by="loss", direction="max")),
    ):
        error = refusal(*pair)
        assert error.code == "checkpointers_collide"
        assert all(f"{each.called}.safetensors" in error.what for each in pair)
    assert len(checkpointers_of([table(), table(when="post"), table(keep="best")], PLAN, True)) == 3


def test_h3_latest_is_kept_every_round_and_best_only_when_not_worse() -> None:
    keeper = Keeper(table(), table(keep="best"))
    for number, weight in enumerate([0.0, 0.5, 0.2, 1.0, 3.0], 1):  # losses 1, 0.25, 0.64, 0, 4
        keeper.see("pre", number, weight)
    assert keeper.rounds == {"pre-latest": [1, 2, 3, 4, 5], "pre-best-loss": [1, 2, 4]}
    assert keeper.weights == {"pre-latest": 3.0, "pre-best-loss": 1.0}


def test_h3_a_best_of_exactly_zero_is_kept_against_a_later_worse_score() -> None:
    keeper = Keeper(table(keep="best"), table(keep="best", by="accuracy", name="most"))
    keeper.see("pre", 1, 1.0)
    assert keeper.scores == {"pre-best-loss": 0.0, "most": 1.0}
    keeper.see("pre", 2, 0.9)
    assert (keeper.scores["pre-best-loss"], keeper.weights["pre-best-loss"]) == (0.0, 1.0)
    zero = Checkpointer("z", "pre", "accuracy", "max")
    assert zero.wins(0.0, None) and not zero.wins(-0.1, 0.0) and zero.wins(0.0, 0.0)


def test_h3_of_equals_the_later_stays_as_documented() -> None:
    keeper = Keeper(table(keep="best", by="accuracy"))
    for number, weight in enumerate([0.5, 0.7, 0.9], 1):
        keeper.see("pre", number, weight)
    assert keeper.rounds["pre-best-accuracy"] == [1, 2, 3] and keeper.weights["pre-best-accuracy"] == pytest.approx(0.9)


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_h3_nan_never_wins_not_even_where_nothing_is_kept(nothing: float) -> None:
    """H3: neither does infinity; and what has no score gives way to anything that has one."""
    for direction in ("max", "min"):
        best = Checkpointer("b", "pre", "accuracy", direction)
        assert not best.wins(nothing, None) and not best.wins(nothing, 0.0) and not best.wins(None, None)
        assert best.wins(-5.0, None) and best.wins(5.0, nothing)
    keeper = Keeper(table(keep="best"))
    keeper.see("pre", 1, nothing)
    assert keeper.rounds == {}
    keeper.see("pre", 2, 7.0)
    keeper.see("pre", 3, nothing)
    assert keeper.rounds == {"pre-best-loss": [2]}


def test_h4_each_metric_knows_its_direction_and_an_unknown_one_is_said() -> None:
    """H4: accuracy, AUC and dice are maximized without a flag; of an unknown metric the direction is required."""
    assert all(KNOWN[name] == "max" for name in ("accuracy", "auc", "dice", "f1")) and KNOWN["loss"] == "min"
    keeper = Keeper(table(keep="best", by="accuracy"))
    keeper.see("pre", 1, 1.0)
    keeper.see("pre", 2, -1.0)
    assert keeper.weights == {"pre-best-accuracy": 1.0}
    error = refusal(table(keep="best", by="spread"))
    assert error.code == "checkpointer_direction" and "spread" in error.what
    (said,) = checkpointers_of([table(keep="best", by="spread", direction="min")], PLAN, True)
    assert said.direction == "min"
    (planned,) = checkpointers_of([table(keep="best", by="spread")], replace(PLAN, declared={"spread": "min"}), True)
    assert planned.direction == "min"
    (turned,) = checkpointers_of([table(keep="best", by="accuracy", direction="min")], PLAN, True)
    assert turned.direction == "min"


def test_h5_an_unknown_metric_is_refused_at_the_start_with_those_that_there_are() -> None:
    error = refusal(table(keep="best", by="accurasy"))
    assert error.code == "checkpointer_unknown"
    assert "accurasy" in error.what and "`accuracy`" in error.what
    assert all(name in error.why for name in ("loss", "accuracy", "spread", "balance"))


def test_a_best_that_nobody_could_measure_is_refused_at_the_start() -> None:
    assert refusal(table(keep="best"), measured=False).code == "checkpointer_unmeasured"
    assert checkpointers_of([table()], PLAN, False)


def test_a_score_function_of_the_plan_chooses_too_and_one_that_fails_keeps_nothing() -> None:
    keeper = Keeper(table(keep="best", by="balance"), table(keep="best", by="broken"))
    keeper.see("pre", 1, 0.5)
    keeper.see("pre", 2, 1.0)
    keeper.see("pre", 3, 0.9)
    assert keeper.scores == {"pre-best-balance": 1.0}


def test_post_sees_each_aggregated_model_once_and_never_the_first_of_all() -> None:
    """In round r a client trains on the model after r - 1 rounds, and tests the one after r."""
    keeper = Keeper(table(when="post"), table(when="pre"))
    keeper.see("post", 1, 0.0)
    keeper.see("pre", 1, 0.1)
    keeper.see("post", 1, 0.2, phase="test")
    keeper.see("pre", 1, 9.9, phase="test")
    keeper.see("post", 2, 0.2)
    keeper.see("pre", 2, 0.3)
    keeper.see("post", 3, 0.4)
    assert keeper.rounds == {"pre-latest": [1, 2], "post-latest": [1, 2]}
    assert keeper.weights == {"pre-latest": pytest.approx(0.3), "post-latest": pytest.approx(0.4)}


def test_a_client_without_examples_to_measure_on_keeps_no_best_and_the_latest_all_the_same() -> None:
    keeper = Keeper(table(), table(keep="best"))
    keeper.see("pre", 1, 0.1, tests=EMPTY)
    assert keeper.rounds == {"pre-latest": [1]}


def test_what_a_metric_draws_at_random_is_not_drawn_from_what_training_draws() -> None:
    def drawing(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.rand(())

    keeper = Keeper(table(keep="best", by="accuracy"), plan=replace(PLAN, metrics={"accuracy": drawing}))
    torch.manual_seed(1)
    keeper.see("pre", 1, 0.1)
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))


@pytest.mark.parametrize(
    "wrong",
    [{"by": "loss"}, {"direction": "max"}, {"when": "late"}, {"keep": "all"}, {"name": "../key"}, {"name": "a/b"}],
)
def test_a_table_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        table(**wrong)
