"""Kernel ``graph``: where kernel ``eager`` goes, within rounding; and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foedus.data.dataset import ClientData, Examples
from foedus.domain.errors import FoedusError
from foedus.domain.rng import generator
from foedus.domain.round import Broadcast, PhaseOrder
from foedus.domain.tree import State, Tensors, flatten, same
from foedus.engine import proof
from foedus.engine.form import UntraceableError, split
from foedus.engine.graph import GraphKernel
from foedus.engine.kernels import EagerKernel, Outcome, PhaseWork
from foedus.engine.precision import LADDER, crossover, exact, from_what_size, turning
from foedus.engine.prepare import Prepared
from foedus.engine.proof import Case, prove
from foedus.engine.recipe import Recipe, recipe_of
from foedus.engine.tidy import PRODUCTS
from foedus.engine.tracing import FunctionalObjective, Shape, trace_step
from foedus.local.work import Batch, Carry, LocalWork, Objective
from foedus.strategies.strategy import Phase
from tests.plans import BATCHNORM, DIGITS, DRAWING, DROPOUT, FROZEN, prepared

SIZES = (34, 3, 10, 21, 30, 7, 1, 16, 25, 19)
NAMES = tuple(f"c{at:03d}" for at in range(10))


def source(name: str) -> ClientData:
    """Examples of every label, as many as ``SIZES`` says."""
    rng, count = generator(5, 0, name, "examples"), SIZES[NAMES.index(name)]
    inputs, targets = torch.rand(count, 64, generator=rng), torch.randint(10, (count,), generator=rng)
    return ClientData(name, Examples(inputs, targets), Examples(inputs[:3], targets[:3]))


def work_of(ready: Prepared, clients: tuple[str, ...] = NAMES) -> PhaseWork:
    state = ready.strategy.init(ready.model)
    phase = ready.strategy.phase(state)
    assert isinstance(phase, Phase)
    return PhaseWork(PhaseOrder(1, phase.name, clients), phase, Broadcast({"model": state.tensors["model"]}), {}, 1)


def case_of(ready: Prepared, cohort: int = 40, data: Callable[[str], ClientData] = source) -> Case:
    return Case(ready.plan, work_of(ready), NAMES, data, cohort, 4)


def local(**options: object) -> dict[str, object]:
    return {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 10, **options}}


def distance(first: Tensors, second: Tensors) -> float:
    """As a share of the second's length."""
    off = sum(float((first[name].double() - second[name].double()).square().sum()) for name in second)
    return float((off / sum(float(tensor.double().square().sum()) for tensor in second.values())) ** 0.5)


def assert_near(ours: list[Outcome], theirs: list[Outcome]) -> None:
    assert [outcome.client for outcome in ours] == [outcome.client for outcome in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert one.contribution is not None
        assert two.contribution is not None
        assert distance(flatten(one.contribution.update), flatten(two.contribution.update)) < 1e-5
        assert one.contribution.weights == two.contribution.weights
        assert one.contribution.metrics["loss"] == pytest.approx(two.contribution.metrics["loss"], rel=1e-4)
        assert one.state.data == two.state.data


LOCAL = {
    "plain": (local(), 10),
    "momentum": (local(momentum=0.9), 10),
    "weight decay": (local(momentum=0.5, weight_decay=0.01), 10),
    "epochs": (local(epochs=3), 10),
    "adam": (local(optimizer="adam", lr=0.01, weight_decay=0.1), 10),
    "clip": (local(clip=0.3), 10),
    "large batches": (local(batch_size=50), 34),
    "single rows": (local(batch_size=1), 1),
}


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "whole"])
@pytest.mark.parametrize("stack", [1, 2, 10])
@pytest.mark.parametrize(("strategy", "rows"), LOCAL.values(), ids=LOCAL.keys())
def test_ragged_clients_end_where_eager_takes_them(
    tmp_path: Path, strategy: dict[str, object], rows: int, stack: int, padded: bool
) -> None:
    ready = prepared(tmp_path, strategy=strategy)
    work = work_of(ready)
    kernel = GraphKernel(ready.plan, 1, Recipe(stack, padded, rows))
    assert_near(list(kernel.run(work, NAMES, source)), list(EagerKernel(ready.plan, 1).run(work, NAMES, source)))
    assert kernel.traced
    ours, theirs = kernel.fold(work, NAMES, source), EagerKernel(ready.plan, 1).fold(work, NAMES, source)
    assert distance(flatten(ours.sums.tensors), flatten(theirs.sums.tensors)) < 1e-5
    assert [receipt.client for receipt in ours.receipts] == list(NAMES)
    assert (ours.sums.weights, ours.sums.count) == (theirs.sums.weights, theirs.sums.count)


PLANS = {
    "frozen": FROZEN,
    "mean squares": DIGITS.replace(
        "nn.functional.cross_entropy(output, target)",
        "nn.functional.mse_loss(output, nn.functional.one_hot(target, 10).float())",
    ),
    "squares of a kind": DIGITS.replace(
        "nn.functional.cross_entropy(output, target)",
        "nn.functional.mse_loss(output, nn.functional.one_hot(target, 10).type_as(output))",
    ),
    "convolution": DIGITS.replace(
        "nn.Linear(64, 32)", "nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 32)"
    ),
    "layer norm": DIGITS.replace("nn.ReLU()", "nn.LayerNorm(32), nn.GELU()"),
    "no zeros": DIGITS.replace("nn.Sequential(", "nn.Sequential(Logarithm(), ")
    + "\n\nclass Logarithm(nn.Module):\n    def forward(self, x):\n        return x.log().clamp(-5, 5)\n",
    "a weight twice": DIGITS.replace("nn.Sequential(nn.Linear(64, 32)", "nn.Sequential(Twice(), nn.Linear(64, 32)")
    + "\n\nclass Twice(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.w = nn.Parameter(torch.eye(64))\n    def forward(self, x):\n        return x @ (self.w @ self.w)\n",
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("cohort", [4, 40])
def test_a_plan_that_is_a_graph_proves_itself_and_agrees(tmp_path: Path, plan: str, cohort: int) -> None:
    ready = prepared(tmp_path, plan)
    kernel, reason = prove(case_of(ready, cohort))
    assert kernel is not None, reason
    assert kernel.recipe.stack in ((1,) if cohort == 4 or "Conv" in plan else (1, 10))
    work = work_of(ready)
    assert_near(list(kernel.run(work, NAMES, source)), list(EagerKernel(ready.plan, 1).run(work, NAMES, source)))


FEATURES = "nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), NORM, nn.ReLU(), nn.MaxPool2d(2), FLAT"
POOLED = DIGITS.replace("nn.Linear(64, 32)", FEATURES + ", nn.Linear(128, 32)")
VIEW = "\n\nclass View(nn.Module):\n    def forward(self, x):\n        return x.view(len(x), -1)\n"
LAYOUTS = {
    "flattened": (POOLED.replace("NORM", "nn.Identity()").replace("FLAT", "nn.Flatten()"), True),
    "viewed": (POOLED.replace("NORM", "nn.Identity()").replace("FLAT", "View()") + VIEW, True),
    "group norm": (POOLED.replace("NORM", "nn.GroupNorm(2, 8)").replace("FLAT", "nn.Flatten()"), True),
    "batch norm": (POOLED.replace("NORM", "nn.BatchNorm2d(8)").replace("FLAT", "nn.Flatten()"), False),
}


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize(("plan", "padded"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_channels_last_agree(tmp_path: Path, plan: str, padded: bool, options: dict[str, object]) -> None:
    ready = prepared(tmp_path, plan, strategy=local(**options))
    proven, reason = prove(case_of(ready))
    assert proven is not None, reason
    assert (proven.recipe.padded, proven.recipe.stack) == (padded, 1)
    work = work_of(ready)
    kernel = GraphKernel(ready.plan, 1, replace(proven.recipe, channels_last=True))
    ours = list(kernel.run(work, NAMES, source))
    assert_near(ours, list(EagerKernel(ready.plan, 1).run(work, NAMES, source)))
    assert kernel.traced
    updates = [outcome.contribution.update for outcome in ours if outcome.contribution]
    assert all(tensor.is_contiguous() for update in updates for tensor in flatten(update).values())
    sums, theirs = kernel.fold(work, NAMES, source).sums, EagerKernel(ready.plan, 1).fold(work, NAMES, source).sums
    assert distance(flatten(sums.tensors), flatten(theirs.tensors)) < 1e-5


def test_a_layout_that_cannot_be_is_not_taken(tmp_path: Path) -> None:
    """Writing through a view of a weight needs the memory that it was traced with."""
    plan = LAYOUTS["flattened"][0].replace("(1, (1, 8, 8)), nn.Conv2d(1", "(1, (4, 4, 4)), nn.Conv2d(4")
    ready = prepared(tmp_path, plan.replace("nn.Linear(128, 32)", "nn.Linear(32, 32)"))
    phase = work_of(ready).phase

    def build(objective: Objective) -> LocalWork:
        local_work = phase.work(objective)

        def step(carry: Carry, batch: Batch) -> tuple[Carry, Tensors]:
            after, loss = local_work.step(carry, batch)
            for tensor in split(after)[1]:
                if tensor.ndim == 4:
                    tensor.view(-1).mul_(0.99)
            return after, loss

        return replace(local_work, step=step)

    case = case_of(ready)
    work = replace(case.work, phase=replace(case.work.phase, work=build))
    proven, reason = prove(replace(case, work=work))
    assert proven is not None, reason
    assert not proven.recipe.channels_last
    with pytest.raises(RuntimeError, match="view size"):
        last = GraphKernel(ready.plan, 1, replace(proven.recipe, channels_last=True))
        member = last.member(work, NAMES[0], source)
        assert member is not None
        last.train(work, [member])


@pytest.mark.parametrize(("other", "switched"), [(0, 0), (1, 5), (10 * 64 * 32, 2)])
def test_large_products_go_to_the_other_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int, switched: int
) -> None:
    """Two layers make two products forward and three back; the first layer's two are the largest."""
    ready = prepared(tmp_path)
    kernel = GraphKernel(ready.plan, 1, Recipe(1, True, 10, other=other))
    work, said = work_of(ready), list[str]()
    member = kernel.member(work, NAMES[0], source)
    assert member is not None
    step, example, _ = kernel.examine(work, member)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    step.run(*example)
    assert said == ["medium", "highest"] * switched


FEW = DIGITS.replace("nn.Linear(64, 32)", "nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)")


@pytest.mark.parametrize("stack", [1, 5])
@pytest.mark.parametrize("options", ["plain", "momentum", "weight decay", "adam"])
def test_weights_on_the_left_agree(tmp_path: Path, options: str, stack: int) -> None:
    ready = prepared(tmp_path, DIGITS if options == "adam" else FEW, strategy=LOCAL[options][0])
    work = work_of(ready)
    kernel = GraphKernel(ready.plan, 1, Recipe(stack, True, 10, turned=1))
    ours, theirs = list(kernel.run(work, NAMES, source)), list(EagerKernel(ready.plan, 1).run(work, NAMES, source))
    assert_near(ours, theirs)
    assert kernel.traced
    updates = [outcome.contribution.update for outcome in ours if outcome.contribution]
    assert all(tensor.is_contiguous() for update in updates for tensor in flatten(update).values())


class OnTheLeft(TorchDispatchMode):
    """Counts the products whose left factor is one of these weights."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.count, self._weights = 0, {weight.data_ptr() for weight in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in PRODUCTS:
            self.count += args[PRODUCTS[func]].data_ptr() in self._weights
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("plan", "rows", "largest", "left"),
    [
        (FEW, 10, 10 * 64 * 64, 5),
        (FEW, 63, 63 * 64 * 64, 5),
        (FEW, 64, 0, 0),
        (DIGITS, 1, 64 * 32, 3),
        (BATCHNORM, 10, 10 * 64 * 32, 3),
    ],
    ids=["few rows", "almost as many rows", "as many rows", "one row", "batch norm"],
)
def test_weights_stand_on_the_left_where_most_are_larger_than_what_they_multiply(
    tmp_path: Path, plan: str, rows: int, largest: int, left: int
) -> None:
    """Every layer has a product on the way there, all but the first have one on the way back."""
    ready = prepared(tmp_path, plan, strategy=local(batch_size=rows))
    work = work_of(ready)
    examples = Examples(torch.rand(rows, 64), torch.randint(10, (rows,)))
    for turned, expected in ((0, 0), (largest + 1, 0), (largest, left)):
        kernel = GraphKernel(ready.plan, 1, Recipe(1, False, rows, turned=turned))
        member = kernel.member(work, "one", lambda name: ClientData(name, examples, examples))
        assert member is not None
        step, example, carried = kernel.examine(work, member)
        assert step.turnable == largest
        with torch.inference_mode(), OnTheLeft(example[:carried]) as counted:
            step.run(*example)
        assert counted.count == expected


def test_products_that_cannot_be_turned_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing through a view of a product needs the memory that it was traced with."""
    inside = "nn.Sequential(nn.Linear(64, 64), Halved(), "
    ready = prepared(
        tmp_path,
        DIGITS.replace("nn.Sequential(", inside)
        + "\n\nclass Halved(nn.Module):\n    def forward(self, x):\n        x.view(-1).mul_(0.5)\n        return x\n",
    )
    monkeypatch.setattr(proof, "SMALLEST", 1)
    monkeypatch.setattr(proof, "turning", lambda _: 1)
    proven, reason = prove(case_of(ready))
    assert proven is not None, reason
    assert proven.recipe.turned == 0
    turned = GraphKernel(ready.plan, 1, replace(proven.recipe, turned=1))
    work = work_of(ready)
    member = turned.member(work, NAMES[0], source)
    assert member is not None
    with pytest.raises(RuntimeError, match="view size"):
        turned.train(work, [member])


@pytest.mark.parametrize(
    ("faster", "size"), [((), 0), (range(5), 1 << 20), ((4,), 1 << 24), ((2, 3, 4), 1 << 22), ((0, 1, 2), 0)], ids=str
)
def test_a_way_is_taken_from_the_size_on_from_which_it_is_faster(faster: Collection[int], size: int) -> None:
    sizes = [math.prod(rung) for rung in LADDER]

    def compared(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
        return (1.0, 1.1) if sizes.index(a.numel() * len(b)) in faster else (1.0, 1.09)

    assert from_what_size(compared, 1.1) == size


def test_what_is_timed_gives_a_size_of_the_ladder_or_none() -> None:
    sizes = {0, *(math.prod(rung) for rung in LADDER)}
    assert crossover() in sizes
    assert {turning(other) for other in (0, crossover())} <= sizes


NAMED = DIGITS.replace(
    "    return nn.functional.cross_entropy(output, target)",
    '    scores = output["scores"]\n'
    '    return nn.functional.cross_entropy(scores, target["label"]) + scores.square().mean(1).mean()',
).replace("nn.Sequential(", "Named(") + (
    "\n\nclass Named(nn.Sequential):\n    def forward(self, image, *, scale):\n"
    '        return {"scores": super().forward(image) * scale[:, None]}\n'
)


def test_several_inputs_and_targets_by_name(tmp_path: Path) -> None:
    def several(name: str) -> ClientData:
        part = source(name).train
        assert isinstance(part.inputs, torch.Tensor)
        assert isinstance(part.targets, torch.Tensor)
        inputs = {"image": part.inputs, "scale": part.inputs.mean(1)}
        return ClientData(name, Examples(inputs, {"label": part.targets}), part.take(slice(0)))

    ready = prepared(tmp_path, NAMED)
    kernel, reason = prove(case_of(ready, data=several))
    assert kernel is not None, reason
    assert kernel.recipe.padded
    work = work_of(ready)
    assert_near(list(kernel.run(work, NAMES, several)), list(EagerKernel(ready.plan, 1).run(work, NAMES, several)))


WIDE = DIGITS.replace("nn.Linear(64, 32)", "nn.Linear(64, 600)").replace("nn.Linear(32, 10)", "nn.Linear(600, 10)")


RESHAPED = WIDE.replace("nn.Sequential(", "nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Flatten(), ")
READ_TWICE = WIDE.replace("nn.Sequential(", "Twice(") + (
    "\n\nclass Twice(nn.Sequential):\n    def forward(self, x):\n        return super().forward(x) + x[:, :1]\n"
)


@pytest.mark.parametrize("stack", [1, 10])
@pytest.mark.parametrize(("plan", "inputs"), [(WIDE, 1), (RESHAPED, 1), (READ_TWICE, 0)], ids=["mlp", "view", "twice"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_weight_with_more_room_than_its_steps_is_kept_as_factors(
    tmp_path: Path, plan: str, inputs: int, epochs: int, stack: int
) -> None:
    proven, reason = prove(case_of(prepared(tmp_path, plan)))
    assert proven is not None, reason
    assert list(proven.recipe.factored.values()) == [-0.1]
    assert len(proven.recipe.inputs) == inputs
    assert proven.recipe.still
    ready = prepared(tmp_path, plan, strategy=local(epochs=epochs))
    kernel = GraphKernel(ready.plan, 1, replace(proven.recipe, stack=stack))
    work = work_of(ready)
    assert_near(list(kernel.run(work, NAMES, source)), list(EagerKernel(ready.plan, 1).run(work, NAMES, source)))
    ours, theirs = kernel.fold(work, NAMES, source), EagerKernel(ready.plan, 1).fold(work, NAMES, source)
    assert distance(flatten(ours.sums.tensors), flatten(theirs.sums.tensors)) < 1e-5
    assert [receipt.size for receipt in ours.receipts] == [receipt.size for receipt in theirs.receipts]


@pytest.mark.parametrize("other", range(1 + exact()))
def test_a_recipe_that_was_recorded_gives_the_same_bits(tmp_path: Path, other: int) -> None:
    ready = prepared(tmp_path, WIDE)
    proven, reason = prove(case_of(ready))
    assert proven is not None, reason
    recipe = replace(proven.recipe, stack=10, other=other)
    read = recipe_of(json.loads(json.dumps(recipe.plain())))
    assert read == recipe
    work, theirs = work_of(ready), EagerKernel(ready.plan, 1)
    first, second = [GraphKernel(ready.plan, 1, each).fold(work_of(ready), NAMES, source) for each in (recipe, read)]
    assert same(flatten(first.sums.tensors), flatten(second.sums.tensors))
    assert distance(flatten(first.sums.tensors), flatten(theirs.fold(work, NAMES, source).sums.tensors)) < 1e-5


@pytest.mark.parametrize("local_options", [{"momentum": 0.9}, {"weight_decay": 0.1}, {"optimizer": "adam"}])
def test_a_weight_that_is_more_than_stepped_along_is_kept_whole(
    tmp_path: Path, local_options: dict[str, object]
) -> None:
    proven, reason = prove(case_of(prepared(tmp_path, WIDE, strategy=local(**local_options))))
    assert proven is not None, reason
    assert not proven.recipe.factored
    assert not proven.recipe.still


CE = "nn.functional.cross_entropy(output, target)"
WHOLE = {
    "batch norm": BATCHNORM,
    "dropout": DROPOUT,
    "a sum": DIGITS.replace(CE, "nn.functional.cross_entropy(output, target, reduction='sum') / 30"),
    "class weights": DIGITS.replace(CE, "nn.functional.cross_entropy(output, target, torch.arange(1.0, 11.0))"),
    "pairs": DIGITS.replace(CE, f"{CE} + (output[:, None] - output[None]).square().mean()"),
}


@pytest.mark.parametrize("plan", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("cohort", [4, 40])
def test_a_plan_whose_rows_are_not_apart_runs_on_whole_batches(tmp_path: Path, plan: str, cohort: int) -> None:
    ready = prepared(tmp_path, plan)
    kernel, reason = prove(case_of(ready, cohort))
    assert kernel is not None, reason
    assert not kernel.recipe.padded
    assert kernel.recipe.stack in ((1,) if cohort == 4 else (1, 10))
    work = work_of(ready)
    ours, theirs = list(kernel.run(work, NAMES, source)), list(EagerKernel(ready.plan, 1).run(work, NAMES, source))
    assert [outcome.failure for outcome in ours] == [outcome.failure for outcome in theirs]
    assert_near([o for o in ours if o.contribution], [o for o in theirs if o.contribution])
    assert len([o for o in ours if o.contribution]) >= 8  # batch normalization refuses a batch of one row


REFUSED = {
    "a branch on data": DIGITS.replace(
        "    return nn.functional", "    if output.sum() > 0: output = 2 * output\n    return nn.functional"
    ),
    "numbers of Python's": DRAWING,
    "a plain number": DIGITS.replace(CE, f"{CE}.item() + {CE}"),
}


@pytest.mark.parametrize("plan", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("cohort", [4, 40])
def test_a_plan_that_is_no_graph_is_refused_with_the_reason(tmp_path: Path, plan: str, cohort: int) -> None:
    kernel, reason = prove(case_of(prepared(tmp_path, plan), cohort))
    assert kernel is None
    assert reason


def test_the_same_stacks_give_the_same_bits(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    work = work_of(ready)
    runs = [list(GraphKernel(ready.plan, 1, Recipe(5, True, 10)).run(work, NAMES, source)) for _ in range(2)]
    for one, two in zip(*runs, strict=True):
        assert one.contribution is not None
        assert two.contribution is not None
        assert same(flatten(one.contribution.update), flatten(two.contribution.update))


def test_clients_without_examples_and_clients_that_diverge_fail_alone(tmp_path: Path) -> None:
    def some(name: str) -> ClientData:
        data = source(name)
        if name == "c002":
            return ClientData(name, data.train.take(torch.arange(0)), data.test)
        if name == "c004":
            return ClientData(name, Examples(data.train.inputs * 1e38, data.train.targets), data.test)
        return data

    ready = prepared(tmp_path)
    work = work_of(ready)
    ours = list(GraphKernel(ready.plan, 1, Recipe(10, True, 10)).run(work, NAMES, some))
    assert [outcome.failure.partition(":")[0] for outcome in ours] == [
        {"c002": "no_examples", "c004": "update_not_finite"}.get(name, "") for name in NAMES
    ]
    fine = tuple(name for name in NAMES if name not in ("c002", "c004"))
    kept = [outcome for outcome in ours if outcome.client in fine]
    assert_near(kept, list(EagerKernel(ready.plan, 1).run(work, fine, source)))


def test_what_a_graph_cannot_run_later_is_run_by_eager(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def odd(name: str) -> ClientData:
        data = source(name)
        if name != "c001":
            return data
        return ClientData(name, Examples(data.train.inputs.double(), data.train.targets), data.test)

    plan = DIGITS.replace("nn.Sequential(", "nn.Sequential(Single(), ")
    plan += "\n\nclass Single(nn.Module):\n    def forward(self, x):\n        return x.float()\n"
    ready = prepared(tmp_path, plan)
    work = work_of(ready)
    ours = list(GraphKernel(ready.plan, 1, Recipe(10, True, 10)).run(work, NAMES, odd))
    theirs = list(EagerKernel(ready.plan, 1).run(work, NAMES, odd))
    for one, two in zip(ours, theirs, strict=True):
        assert one.contribution is not None
        assert two.contribution is not None
        assert same(flatten(one.contribution.update), flatten(two.contribution.update))
    assert "dtype" in caplog.text


def test_a_carry_that_holds_more_than_tensors_is_refused() -> None:
    with pytest.raises(UntraceableError, match="a int, which is not a tensor"):
        split({"loss": torch.zeros(()), "epoch": 3})


def test_a_step_that_changes_what_its_carry_is_made_of_is_refused(tmp_path: Path) -> None:
    ready = prepared(tmp_path)

    def build(objective: Objective) -> LocalWork:
        def step(carry: Carry, batch: Batch) -> tuple[Carry, Tensors]:
            return {**carry, "more": torch.zeros(1)}, {}

        return replace(work_of(ready).phase.work(objective), step=step)

    form, tensors = split({"loss": torch.zeros(())})
    batch, _ = split({name: torch.zeros(()) for name in ("inputs", "targets", "mask")})
    example = [*tensors, torch.zeros(2, 64), torch.zeros(2, dtype=torch.long), torch.ones(2)]
    with pytest.raises(UntraceableError, match="changes what its carry is made of"):
        trace_step(
            build(FunctionalObjective(ready.plan, 1)),
            form,
            Shape(batch, False, frozenset(), Recipe(1, True, 10)),
            example,
        )


def test_a_carry_is_taken_apart_and_put_together() -> None:
    carry = {"model": {"b": torch.ones(1), "a": torch.zeros(2)}, "empty": {}}
    form, tensors = split(carry)
    assert [tuple(tensor.shape) for tensor in tensors] == [(1,), (2,)]
    again = form.join(tensors)
    assert (list(again), list(again["model"]), again["empty"]) == (list(carry), ["b", "a"], {})
    assert again["model"]["a"] is carry["model"]["a"]


def test_the_test_phase_is_that_of_eager(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    state = ready.strategy.init(ready.model)
    phase = ready.strategy.phase(State(state.tensors, {**state.data, "phase": 1}))
    assert isinstance(phase, Phase)
    work = replace(work_of(ready), phase=phase, order=PhaseOrder(1, "test", NAMES))
    kernel = GraphKernel(ready.plan, 1, Recipe(10, True, 10))
    ours, theirs = list(kernel.run(work, NAMES, source)), list(EagerKernel(ready.plan, 1).run(work, NAMES, source))
    assert [o.contribution and o.contribution.metrics for o in ours] == [
        t.contribution and t.contribution.metrics for t in theirs
    ]
    assert kernel.parts(work, NAMES) == [(name,) for name in NAMES]


def test_an_error_of_the_data_is_not_hidden(tmp_path: Path) -> None:
    def broken(name: str) -> ClientData:
        raise FoedusError("column_missing", "No such column.")

    ready = prepared(tmp_path)
    with pytest.raises(FoedusError) as raised:
        list(GraphKernel(ready.plan, 1, Recipe(10, True, 10)).run(work_of(ready), NAMES, broken))
    assert raised.value.code == "column_missing"
