"""What the live benchmarks move: a model of 200 MB, updates of the same size, and the run that asks for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from foedus.client.runs import Submission
from foedus.domain.codec import encode_tensors
from foedus.domain.header import TensorSpec, layout
from foedus.domain.plan import ModelManifest, ModelTensor, PlanBundle
from foedus.domain.run import RunSpec, parse_spec
from foedus.domain.tree import to_bytes
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import RunContext, Strategy

TAG = "benchmark"
BUNDLE = PlanBundle(
    {"plan.py": b"# Nobody runs this plan: the nodes of the benchmark make their updates up.\n"}, "plan.py"
)
TENSORS, ELEMENTS = 20, 2_500_000
"""The large model: so many float32 tensors of so many elements, 200 MB."""


def model(tensors: int, elements: int, seed: int) -> dict[str, torch.Tensor]:
    """Random parameters."""
    rng = torch.Generator().manual_seed(seed)
    return {f"layer{at:02d}.weight": torch.randn(elements, generator=rng) for at in range(tensors)}


def write_update(path: Path, name: str, elements: int = ELEMENTS) -> None:
    """An update of the large model, other for every name; written tensor by tensor."""
    rng = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    specs = {f"parameters/layer{at:02d}.weight": TensorSpec((elements,), "F32") for at in range(TENSORS)}
    head, header = layout(specs, {})
    with path.open("wb") as file:
        file.write(head)
        for entry in sorted(header.entries.values(), key=lambda entry: entry.start):
            file.seek(entry.start)
            file.write(to_bytes(torch.randn(elements, generator=rng)))


def submission(tensors: int, elements: int, cohort: int, population: int, rounds: int = 1) -> Submission:
    """FedAvg, without a test phase."""
    start = model(tensors, elements, 0)
    return Submission(_spec(cohort, population, rounds), BUNDLE, encode_tensors(start), _manifest(tensors, elements))


def one_round(tensors: int, elements: int, cohort: int) -> Strategy:
    """The strategy of :func:`submission`."""
    return build(RunContext(_spec(cohort, cohort), _manifest(tensors, elements)))


def _spec(cohort: int, population: int, rounds: int = 1) -> RunSpec:
    return parse_spec(
        {
            "plan": "plan.py",
            "rounds": rounds,
            "strategy": {"name": "fedavg", "local": {"lr": 0.1}},
            "cohort": {"size": cohort, "population": population},
            "data": {"name": "none", "tags": (TAG,), "partition": {"name": "given", "clients": population}},
            "test": {"ratio": 0.0},
        }
    )


def _manifest(tensors: int, elements: int) -> ModelManifest:
    names = (f"layer{at:02d}.weight" for at in range(tensors))
    rows = tuple(ModelTensor(name, (elements,), "F32", "parameter", "Linear") for name in names)
    return ModelManifest(rows, {"loss": "min"})
