"""A plan, a dataset, assignments and orders for the tests of the node."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from foedus.data.files import write_columns
from foedus.domain.codec import encode_tensors
from foedus.domain.plan import PlanBundle
from foedus.domain.tree import State, Tensors
from foedus.local.kinds import load_plan
from foedus.local.plan import TrainingPlan, build_model, manifest_of, tensors_of
from foedus.node.frames import Done, Order
from foedus.node.session import Worked, spec_of
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import Phase, RunContext
from foedus.wire.messages import Assignment

PLAN = """
from torch import nn

def model():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))

def loss(output, target):
    return nn.functional.cross_entropy(output, target)

def accuracy(output, target):
    return (output.argmax(1) == target).float().mean()

metrics = {"accuracy": accuracy}

def prepare(columns):
    return columns["image"].float(), columns["label"]
"""
SEED = 3
OPTIONS: dict[str, Any] = {"local": {"lr": 0.1, "epochs": 2, "batch_size": 4}}


shared: set[psutil.Process] = set()
"""Services that all tests of this process share: what it had started before a test began."""


def children(*, recursive: bool = False) -> list[psutil.Process]:
    """What the test has started and is there."""
    found = [child for child in psutil.Process().children() if child not in shared]
    for child in list(found) if recursive else ():
        with suppress(psutil.NoSuchProcess):
            found += child.children(recursive=True)
    return found


def names(processes: Iterable[psutil.Process]) -> set[str]:
    """What these are called; some may be gone already."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


def bundle_of(text: str = PLAN) -> PlanBundle:
    return PlanBundle({"plan.py": text.encode()}, "plan.py")


def broken(function: str, body: str) -> PlanBundle:
    """The plan with another body for one of its functions."""
    return bundle_of(f"{PLAN}\n\ndef {function}(*arguments):\n    {body}\n")


def columns(rows: int = 25) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(rows, 4, generator=generator)
    return {"image": images, "label": (images.sum(1) > 0).long()}


def assignment(bundle: PlanBundle, **changed: Any) -> Assignment:
    usual = {
        **{"id": "a_1", "token": 1, "lease": 60.0, "run": "r_1", "round": 1, "phase": "train", "attempt": 0},
        **{"client": "c0000", "seed": SEED, "strategy": "fedavg", "options": OPTIONS, "test_ratio": 0.2},
        **{"plan": bundle.digest, "plan_blob": "0" * 64, "broadcast": {"model": "1" * 64}},
    }
    return Assignment(**{**usual, **changed})


@dataclass
class Desk:
    """A folder with everything that an order names."""

    folder: Path
    bundle: PlanBundle = field(default_factory=bundle_of)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bundle.json").write_bytes(self.bundle.to_bytes())
        write_columns(self.folder / "data.npz", columns())

    def order(self, model: Tensors, state: Path | None = None, **changed: Any) -> Order:
        (self.folder / "model").write_bytes(encode_tensors(model))
        return Order(
            assignment=assignment(self.bundle, **changed),
            bundle=str(self.folder / "bundle.json"),
            parts={"model": str(self.folder / "model")},
            dataset=str(self.folder / "data.npz"),
            state=None if state is None else str(state),
        )

    def keep(self, worked: Worked) -> Done:
        """Write what a session made where a pool writes it."""
        for name, content in (("update", worked.update), ("state", worked.state)):
            if content:
                (self.folder / name).write_bytes(content)
        return worked.done


@dataclass
class Truth:
    """The same work as the simulation does it."""

    plan: TrainingPlan
    model: dict[str, torch.Tensor]
    phases: dict[str, Phase]


def truth() -> Truth:
    plan = load_plan(bundle_of())
    module = build_model(plan, SEED)
    strategy = build(RunContext(spec_of(assignment(bundle_of())), manifest_of(plan, module)))
    phases = [strategy.phase(State({}, {"round": 1, "phase": at})) for at in (0, 1)]
    named = {phase.name: phase for phase in phases if isinstance(phase, Phase)}
    return Truth(plan, {name: tensor.clone() for name, tensor in tensors_of(module).items()}, named)
