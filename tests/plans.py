"""Plans and runs that tests share: small, real, and written as a user would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foedus.domain.run import RunSpec, parse_spec
from foedus.engine.prepare import Prepared, prepare_spec

DIGITS = (Path(__file__).parent.parent / "examples" / "digits" / "plan.py").read_text()

BATCHNORM = DIGITS.replace("nn.Linear(64, 32), nn.ReLU()", "nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU()")
DROPOUT = DIGITS.replace("nn.ReLU()", "nn.ReLU(), nn.Dropout(0.3)")
DRAWING = (
    DIGITS.replace("import torch\n", "import random\n\nimport numpy as np\nimport torch\n", 1)
    .replace("cross_entropy(output, target)", "cross_entropy(output * (0.5 + random.random()), target)")
    .replace(") / 16,", ") / 16 + 0.1 * float(np.random.rand()),")
    .replace("return (output.argmax", "return float(np.random.rand()) * (output.argmax")
)
"""Loss, examples and accuracy depend on what Python's and NumPy's own generators give."""

FROZEN = DIGITS.replace(
    "    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))",
    "    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n"
    "    net[0].weight.requires_grad_(False)\n    return net",
)
MARKED = (
    DIGITS.replace("prepare(columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:", "prepare(columns):")
    .replace(
        'columns["label"].to(torch.int64)',
        '{"label": columns["label"].to(torch.int64), "mark": columns["image"].double() @ torch.arange(64.0).double()}',
    )
    .replace("cross_entropy(output, target)", 'cross_entropy(output, target["label"])')
    .replace("== target)", '== target["label"])')
    .replace('{"accuracy": accuracy}', '{"accuracy": accuracy, "mark": lambda output, target: target["mark"].mean()}')
)
"""The same learning; the metric ``mark`` tells one set of examples from another."""

SERVERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9},
    "adagrad": {"optimizer": "adagrad", "lr": 0.1},
    "adam": {"optimizer": "adam", "lr": 0.1},
    "yogi": {"optimizer": "yogi", "lr": 0.1},
}


def table(**changes: Any) -> dict[str, Any]:
    """A run.toml as a table: two rounds of FedAvg over four clients of digits."""
    run: dict[str, Any] = {
        "plan": "plan.py",
        "rounds": 2,
        "seed": 1,
        "strategy": {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 10}},
        "cohort": {"size": 4},
        "data": {
            "name": "digits",
            "tags": ["digits"],
            "held_out": 0.2,
            "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 4},
        },
    }
    return {**run, **changes}


def spec(**changes: Any) -> RunSpec:
    """The validated run of :func:`table`."""
    return parse_spec(table(**changes))


def prepared(folder: Path, plan: str = DIGITS, **changes: Any) -> Prepared:
    """A run that could begin, with this plan's text in ``folder``."""
    (folder / "plan.py").write_text(plan)
    return prepare_spec(spec(**changes), folder)
