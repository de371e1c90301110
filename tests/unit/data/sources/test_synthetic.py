"""A population that is computed: the same client by the same seed, whatever else was asked for."""

from __future__ import annotations

import torch

from foedus.data.catalogue import load
from foedus.data.population import Federation
from foedus.domain.run import DataTable
from foedus.domain.tree import same


def _load(seed: int = 1, held_out: str | None = None, **options: object) -> Federation:
    found = load(DataTable.model_validate({"name": "synthetic", "held_out": held_out, "options": options}), seed=seed)
    assert isinstance(found, Federation)
    return found


def test_a_client_follows_from_the_seed_and_its_place() -> None:
    few, many = _load(clients=10), _load()
    assert (len(many.names), many.names[-1]) == (10**6, "c999999")
    assert same(few.clients["c0007"], many.clients["c000007"])
    assert not same(few.clients["c0007"], few.clients["c0008"])
    assert not same(few.clients["c0007"], _load(seed=2, clients=10).clients["c0007"])


def test_its_shape_and_skew_are_options() -> None:
    client = _load(clients=2, examples=5, features=3, classes=4).clients["c0000"]
    assert client["features"].shape == (5, 3)
    assert int(client["label"].max()) < 4
    alike = _load(clients=2, examples=4000, skew=0.0).clients["c0000"]
    assert abs(float(alike["features"].mean())) < 0.02


def test_the_test_part_is_of_other_clients() -> None:
    found = _load(held_out="test", clients=3)
    assert found.held_out is not None
    assert found.held_out["features"].shape == (1000, 20)
    assert len(torch.unique(found.held_out["label"])) > 5
