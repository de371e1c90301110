"""Learning-rate schedules: the rates of torch's schedulers, and beyond their ends what is documented."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from foedus.domain.errors import ConfigError
from foedus.domain.rng import Randomness
from foedus.domain.round import Broadcast
from foedus.domain.table import validate
from foedus.domain.training import LocalOptions
from foedus.domain.tree import State
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan
from foedus.local.sgd import local_sgd
from foedus.local.work import Batch
from foedus.optim.rates import rate_at

PLAN = TrainingPlan(
    lambda: torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, {}, {}, lambda columns: (columns["x"], columns["y"])
)
SCHEDULES = {
    "step": ({"step_size": 3, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, 3, 0.5)),
    "exponential": ({"gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "cosine": ({"t_max": 12, "eta_min": 0.01}, lambda o: lr_scheduler.CosineAnnealingLR(o, 12, 0.01)),
    "linear": ({"total_iters": 5, "start_factor": 0.1}, lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 5)),
}


def options(name: str, over: str = "steps", **more: object) -> LocalOptions:
    schedule = {"name": name, "over": over, **SCHEDULES[name][0]}
    return validate(LocalOptions, {"lr": 0.2, "lr_schedule": schedule, **more}, "the test")


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rates_are_those_of_torch_s_schedulers(name: str) -> None:
    schedule = options(name).lr_schedule
    assert schedule is not None
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = SCHEDULES[name][1](optimizer)
    for taken in range(13):
        ours = float(rate_at(schedule, 0.2, torch.tensor(float(taken))))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
        optimizer.step()
        theirs.step()


def test_a_cosine_and_a_line_stay_where_they_end() -> None:
    for name, end in (("cosine", 0.01), ("linear", 0.2)):
        schedule = options(name).lr_schedule
        assert schedule is not None
        assert float(rate_at(schedule, 0.2, torch.tensor(1000.0))) == pytest.approx(end)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_h7_rounds_with_kept_moments_and_schedule_are_one_training_with_torch(name: str, optimizer: str) -> None:
    """H7: optimizer, schedule and step counters go on from round to round, as state alone carries them."""
    local = local_sgd(options(name, optimizer=optimizer, momentum=0.9, keep_optimizer=True, num_updates=4))
    objective = EagerObjective(PLAN, 1)
    work, state = local(objective), State()
    module = PLAN.model()
    start = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    torch_optimizer: torch.optim.Optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    if optimizer == "adam":
        torch_optimizer = torch.optim.AdamW(module.parameters(), lr=0.2, weight_decay=0.0)
    scheduler = SCHEDULES[name][1](torch_optimizer)
    generator = torch.Generator().manual_seed(1)
    for number in range(1, 4):
        carry = work.init(Broadcast({"model": start}), state, Randomness(1, number, "c0"))
        for _ in range(4):
            inputs, targets = torch.randn(5, 3, generator=generator), torch.randn(5, 1, generator=generator)
            with torch.enable_grad():
                carry, _ = work.step(carry, Batch(inputs, targets))
            torch_optimizer.zero_grad()
            PLAN.loss(module(inputs), targets).backward()
            torch_optimizer.step()
            scheduler.step()
        finished = work.finish(Broadcast({"model": start}), carry)
        start = {name: tensor - finished.update["parameters"][name] for name, tensor in start.items()}
        state = State(finished.state, work.account(20, state).data)
        assert state.data["steps"] == 4 * number
    for name_of, tensor in module.named_parameters():
        assert torch.allclose(start[name_of], tensor, atol=1e-5)


def test_over_rounds_the_rate_is_that_of_the_run_s_round_whoever_missed_some() -> None:
    work = local_sgd(options("step", over="rounds"))(EagerObjective(PLAN, 1))
    model = {name: tensor.detach() for name, tensor in PLAN.model().named_parameters()}
    taken = [float(work.init(Broadcast({"model": model}), State(), Randomness(1, n, "c0"))["taken"]) for n in (1, 2, 7)]
    assert taken == [0.0, 1.0, 6.0]


@pytest.mark.parametrize("wrong", [{"name": "steep"}, {"name": "step"}, {"name": "cosine", "t_max": 0}])
def test_a_schedule_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(LocalOptions, {"lr": 0.1, "lr_schedule": wrong}, "the test")
    assert caught.value.code == "config_refused"
