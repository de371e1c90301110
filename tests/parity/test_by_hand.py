"""The paper's pseudocode, written out, ends with the same bits as kernel ``eager``."""

from __future__ import annotations

from pathlib import Path

from examples import fedavg_by_hand
from foedus.engine.choice import Engine
from foedus.engine.prepare import prepare
from foedus.engine.simulate import simulate

EXAMPLE = Path(fedavg_by_hand.__file__)


def test_by_hand_and_by_engine_give_the_same_bits() -> None:
    result = simulate(prepare(fedavg_by_hand.RUN), Engine("eager", "inline"))
    assert fedavg_by_hand.main() == result.model_digest


def test_the_example_fits_on_two_screens_and_borrows_only_data_batches_and_initial_parameters() -> None:
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 100
    borrowed = {line.split(" import ")[1] for line in lines if line.startswith("from foedus")}
    assert borrowed == {"batches", "ClientData", "model_digest", "prepare", "client_data"}
