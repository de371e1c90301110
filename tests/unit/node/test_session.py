"""A node's work is the simulation's work, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foedus.data.dataset import prepare_client
from foedus.data.files import write_columns
from foedus.data.owned import Reading
from foedus.domain.codec import TensorFile, decode, encode
from foedus.domain.errors import ClientWorkError, ConfigError, DataError, IntegrityError
from foedus.domain.plan import PlanBundle
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.domain.tree import State, flatten, same
from foedus.engine.kernels import EagerKernel, Outcome, PhaseWork
from foedus.local.kinds import load_plan
from foedus.node.frames import Done
from foedus.node.session import Session, spec_of
from tests.unit.node.support import PLAN, SEED, Desk, Truth, assignment, broken, bundle_of, columns, truth


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk")


def simulated(known: Truth, phase: str, number: int, state: State) -> Outcome:
    data = prepare_client("c0000", columns(), known.plan.prepare, 0.2, SEED)
    order, broadcast = PhaseOrder(number, phase, ("c0000",)), Broadcast({"model": known.model})
    work = PhaseWork(order, known.phases[phase], broadcast, {"c0000": state}, SEED)
    (outcome,) = EagerKernel(known.plan, SEED).run(work, ("c0000",), lambda _: data)
    return outcome


def divided(state: State) -> State:
    """The state as a node keeps it: with how many of the 25 examples are trained on, tested on and validated on."""
    return replace(state, data={**state.data, "split": [20, 5, 0]})


def worked(session: Session, desk: Desk, known: Truth, **asked: object) -> Done:
    return desk.keep(session.work(desk.order(known.model, **asked), lambda: None))  # type: ignore[arg-type]


def test_training_gives_the_bytes_of_kernel_eager_round_after_round(desk: Desk) -> None:
    known, state, path = truth(), State(), None
    session = Session(desk.bundle, assignment(desk.bundle))
    for number in (1, 2, 3):
        done = worked(session, desk, known, round=number, state=path)
        expected = simulated(known, "train", number, state)
        assert expected.contribution is not None
        update = decode((desk.folder / "update").read_bytes())
        assert same(flatten(update.tensors), flatten(expected.contribution.update))
        assert (done.update > 0, done.weights) == (True, {"examples": 20.0})
        assert (done.weights, done.metrics) == (expected.contribution.weights, expected.contribution.metrics)
        state = divided(expected.state)
        assert (desk.folder / "state").read_bytes() == encode(state)
        path = (desk.folder / "state").rename(desk.folder / f"state{number}")
        known.model["0.weight"] = known.model["0.weight"] * 0.9


def test_what_a_plan_draws_from_python_and_numpy_is_the_simulation_s(tmp_path: Path) -> None:
    noise = "random.random() + float(numpy.random.rand())"
    head = "import random, numpy\n"
    body = f"return nn.functional.cross_entropy(output * ({noise}), target)"
    prepared = f'return columns["image"] + 0.1 * ({noise}), columns["label"]'
    text = f"{head}{PLAN}\n\ndef loss(output, target):\n    {body}\n\n\ndef prepare(columns):\n    {prepared}\n"
    desk = Desk(tmp_path / "desk", bundle_of(text))
    known = replace(truth(), plan=load_plan(desk.bundle))
    expected = simulated(known, "train", 1, State())
    random.random(), np.random.rand(3), torch.rand(3)
    done = worked(Session(desk.bundle, assignment(desk.bundle)), desk, known)
    assert expected.contribution is not None
    assert done.metrics == expected.contribution.metrics
    update = decode((desk.folder / "update").read_bytes())
    assert same(flatten(update.tensors), flatten(expected.contribution.update))


def test_testing_measures_like_kernel_eager_and_has_no_update(desk: Desk) -> None:
    known = truth()
    done = worked(Session(desk.bundle, assignment(desk.bundle)), desk, known, phase="test")
    expected = simulated(known, "test", 1, State())
    assert expected.contribution is not None
    assert (done.update, done.metrics, done.weights) == (0, expected.contribution.metrics, {"examples": 5.0})
    assert not (desk.folder / "update").exists()
    assert (desk.folder / "state").read_bytes() == encode(divided(State()))


def test_the_state_goes_on_where_it_was(desk: Desk) -> None:
    known, session = truth(), Session(desk.bundle, assignment(desk.bundle))
    worked(session, desk, known)
    first = (desk.folder / "update").read_bytes()
    with TensorFile(desk.folder / "state") as file:
        assert file.state().data == {"epoch": 2, "batch": 0, "split": [20, 5, 0]}
    later = (desk.folder / "state").rename(desk.folder / "before")
    worked(session, desk, known, state=later)
    assert (desk.folder / "update").read_bytes() != first


def test_the_dataset_is_read_once_per_run(desk: Desk) -> None:
    known, session = truth(), Session(desk.bundle, assignment(desk.bundle))
    worked(session, desk, known)
    first = (desk.folder / "update").read_bytes()
    (desk.folder / "data.npz").unlink()
    worked(session, desk, known)
    assert (desk.folder / "update").read_bytes() == first


def test_every_step_is_told(desk: Desk) -> None:
    steps: list[None] = []
    Session(desk.bundle, assignment(desk.bundle)).work(desk.order(truth().model), lambda: steps.append(None))
    assert len(steps) == 2 * 5


def test_another_bundle_than_the_assignment_names_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        Session(broken("loss", "return 0"), assignment(bundle_of()))
    assert caught.value.code == "plan_digest"


def test_an_unknown_phase_is_refused(desk: Desk) -> None:
    with pytest.raises(ClientWorkError) as caught:
        worked(Session(desk.bundle, assignment(desk.bundle)), desk, truth(), phase="gather")
    assert caught.value.code == "phase_unknown"


def test_options_that_the_strategy_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Session(bundle_of(), assignment(bundle_of(), options={"local": {"lr": 0.1}, "steal": True}))
    assert caught.value.code == "config_refused"


@pytest.mark.parametrize(
    ("bundle", "code"),
    [
        (broken("loss", "raise ValueError('secret')"), "plan_failed"),
        (broken("prepare", "raise ValueError('secret')"), "prepare_failed"),
        (broken("prepare", "return arguments[0]['absent']"), "column_missing"),
        (broken("loss", "return arguments[0]"), "plan_loss_shape"),
        (broken("loss", "return arguments[0].sum() * float('nan')"), "update_not_finite"),
    ],
)
def test_a_broken_plan_fails_with_its_code(tmp_path: Path, bundle: PlanBundle, code: str) -> None:
    desk = Desk(tmp_path / "desk", bundle)
    with pytest.raises((ClientWorkError, ConfigError)) as caught:
        worked(Session(bundle, assignment(bundle)), desk, truth())
    assert caught.value.code == code


def test_a_dataset_that_is_gone_fails_with_its_code(desk: Desk) -> None:
    (desk.folder / "data.npz").unlink()
    with pytest.raises(DataError) as caught:
        worked(Session(desk.bundle, assignment(desk.bundle)), desk, truth())
    assert caught.value.code == "dataset_unreadable"


def test_the_spec_is_what_client_work_depends_on() -> None:
    spec = spec_of(assignment(bundle_of(), round=5, test_ratio=0.0))
    assert (spec.seed, spec.strategy.name, spec.test.ratio) == (SEED, "fedavg", 0.0)


BOTH = {"on_global_updates": True, "on_local_updates": True}


def test_f4_the_model_is_measured_before_and_after_training_on_the_examples_that_are_kept(desk: Desk) -> None:
    known = truth()
    plain = worked(Session(desk.bundle, assignment(desk.bundle)), desk, known)
    update = (desk.folder / "update").read_bytes()
    done = worked(Session(desk.bundle, assignment(desk.bundle, checks=BOTH)), desk, known, checks=BOTH)
    assert (desk.folder / "update").read_bytes() == update
    assert set(done.metrics) == {"loss", "global.loss", "global.accuracy", "local.loss", "local.accuracy"}
    assert done.metrics["loss"] == plain.metrics["loss"]
    tested = worked(Session(desk.bundle, assignment(desk.bundle)), desk, known, phase="test")
    assert {name: done.metrics[f"global.{name}"] for name in ("loss", "accuracy")} == tested.metrics


def test_the_reply_says_what_the_seconds_were_spent_on(desk: Desk) -> None:
    session = Session(desk.bundle, assignment(desk.bundle, checks=BOTH))
    done = worked(session, desk, truth(), checks=BOTH)
    assert set(done.timings) == {"prepare", "before", "work", "after"}
    assert all(seconds > 0 for seconds in done.timings.values())
    assert sum(done.timings[name] for name in ("before", "work", "after")) <= done.seconds


def test_f13_the_split_is_kept_with_the_state_and_another_dataset_is_refused(desk: Desk) -> None:
    known = truth()
    worked(Session(desk.bundle, assignment(desk.bundle)), desk, known)
    state = (desk.folder / "state").rename(desk.folder / "before")
    again = Session(desk.bundle, assignment(desk.bundle))
    assert worked(again, desk, known, state=state, round=2).weights == {"examples": 20.0}
    write_columns(desk.folder / "data.npz", columns(30))
    with pytest.raises(ClientWorkError) as caught:
        worked(Session(desk.bundle, assignment(desk.bundle)), desk, known, state=state, round=2)
    assert caught.value.code == "dataset_changed"


def test_f6_a_model_that_is_not_the_plans_fails_with_its_code(desk: Desk) -> None:
    known, session = truth(), Session(desk.bundle, assignment(desk.bundle))
    for wrong in (
        {name: tensor for name, tensor in known.model.items() if name != "0.bias"},
        {**known.model, "0.bias": torch.zeros(4)},
        {**known.model, "0.bias": known.model["0.bias"].double()},
        {**known.model, "more": torch.zeros(1)},
    ):
        with pytest.raises(ClientWorkError) as caught:
            session.work(desk.order(wrong), lambda: None)
        assert caught.value.code == "model_refused"
    order = desk.order(known.model)
    (desk.folder / "model").write_bytes(b"no tensors")
    with pytest.raises(ClientWorkError) as caught:
        session.work(order, lambda: None)
    assert caught.value.code == "model_refused"


def test_f6_a_state_that_cannot_be_read_fails_with_its_code(desk: Desk) -> None:
    (desk.folder / "damaged").write_bytes(b"no state")
    session = Session(desk.bundle, assignment(desk.bundle))
    with pytest.raises(ClientWorkError) as caught:
        worked(session, desk, truth(), state=desk.folder / "damaged", round=2)
    assert caught.value.code == "state_refused"


def test_a_run_that_only_evaluates_tests_on_every_example(desk: Desk) -> None:
    session = Session(desk.bundle, assignment(desk.bundle, test_ratio=1.0))
    done = worked(session, desk, truth(), phase="test", test_ratio=1.0)
    assert (done.update, done.weights) == (0, {"examples": 25.0})
    with pytest.raises(ClientWorkError) as caught:
        worked(session, desk, truth(), test_ratio=1.0)
    assert caught.value.code == "phase_unknown"


def test_what_is_measured_is_part_of_the_run(desk: Desk) -> None:
    with pytest.raises(IntegrityError) as caught:
        worked(Session(desk.bundle, assignment(desk.bundle)), desk, truth(), checks=BOTH)
    assert caught.value.code == "run_changed"


@pytest.mark.parametrize(
    ("prepared", "minimum", "fine"),
    [
        ('return columns["image"].float(), columns["label"]', 20, True),
        ('return columns["image"].float(), columns["label"]', 21, False),
        ('return columns["image"][:1].float(), columns["label"][:1]', 2, False),
    ],
)
def test_f8_a_run_rests_on_as_many_examples_as_the_owner_wants_whatever_the_plan_leaves_out(
    tmp_path: Path, prepared: str, minimum: int, fine: bool
) -> None:
    """Of 25 examples 20 are trained on; a plan that picks one row would tell of one person."""
    desk = Desk(tmp_path / "desk", bundle_of(f"{PLAN}\n\ndef prepare(columns):\n    {prepared}\n"))
    session = Session(desk.bundle, assignment(desk.bundle))
    order = desk.order(truth().model).model_copy(update={"reading": Reading(minimum=minimum)})
    if fine:
        assert session.work(order, lambda: None).done.weights == {"examples": 20.0}
        order = order.model_copy(update={"reading": Reading(minimum=21)})  # the owner's mind has changed
    with pytest.raises(DataError) as caught:
        session.work(order, lambda: None)
    assert caught.value.code == "too_few_examples"
