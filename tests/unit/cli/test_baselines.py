"""What the demo compares with: pooled data beat data of one client alone."""

from __future__ import annotations

from pathlib import Path

from foedus.cli.baselines import baselines
from foedus.engine.prepare import prepare


def test_pooled_data_beat_every_client_alone(digits: Path) -> None:
    found = baselines(prepare(digits / "run.toml", {"rounds": "5"}))
    assert list(found) == ["c0000", "c0001", "c0002", "c0003", "pooled"]
    accuracies = {name: metrics["accuracy"] for name, metrics in found.items()}
    assert accuracies["pooled"] > 0.7
    assert max(accuracies[name] for name in accuracies if name != "pooled") < accuracies["pooled"]
