"""A model that does not fit is refused before round 1, with numbers, and the process lives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.domain.errors import ConfigError
from foedus.engine import fits
from foedus.engine.choice import Engine
from foedus.engine.fits import available_bytes, check_fits
from foedus.engine.simulate import simulate
from tests.plans import DIGITS, prepared


def test_this_machine_says_what_it_has() -> None:
    free = available_bytes()
    assert free is None or 10**7 < free < 10**15


def test_a_model_is_refused_that_cannot_be_held_often_enough() -> None:
    model = {"w": torch.zeros(1_000_000)}
    check_fits(model, None)
    check_fits(model, 20_000_000)
    with pytest.raises(ConfigError) as refused:
        check_fits(model, 19_999_999)
    assert refused.value.code == "model_too_large"
    assert "4.0 MB" in refused.value.what
    assert "20.0 MB" in refused.value.why


@pytest.mark.parametrize("layers", ["nn.Linear(10**6, 10**6)", "*[nn.Linear(1000, 1000) for _ in range(10**5)]"])
def test_a_model_larger_than_memory_is_refused_and_not_built(
    tmp_path: Path, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "available_bytes", lambda: 200_000_000)
    with pytest.raises(ConfigError) as refused:
        prepared(tmp_path, DIGITS.replace("nn.Linear(64, 32)", f"nn.Linear(64, 32), {layers}"))
    assert refused.value.code == "model_too_large"
    assert refused.value.why == "This machine has 200.0 MB of memory left."
    assert "200.0 MB of memory left" in refused.value.why


def test_the_limit_is_lifted_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "available_bytes", lambda: 1 << 26)
    prepared(tmp_path)
    with pytest.raises(ConfigError):
        prepared(tmp_path, DIGITS.replace("nn.Linear(64, 32)", "nn.Linear(64, 32), nn.Linear(10_000, 10_000)"))
    assert torch.ones(1 << 26).numel() == 1 << 26


def test_any_other_failure_of_a_model_is_told_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        prepared(tmp_path, DIGITS.replace("nn.Linear(64, 32)", "nn.Linear(64, -1)"))
    assert refused.value.code == "plan_model_failed"


def test_a_simulation_that_cannot_hold_its_models_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepared(tmp_path)
    monkeypatch.setattr(fits, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(fits, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   40 kB\n")
    with pytest.raises(ConfigError) as refused:
        simulate(ready, Engine("eager", "inline"))
    assert refused.value.code == "model_too_large"
    (tmp_path / "meminfo").write_text("MemAvailable:   400 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert simulate(ready, Engine("eager", "inline")).model_digest
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.current").write_text("90000\n")
    with pytest.raises(ConfigError):
        simulate(ready, Engine("eager", "inline"))
