"""Randomness: the same everywhere for the same four, independent otherwise."""

from __future__ import annotations

import torch

from foedus.domain.rng import Randomness, derive, generator


def test_the_seed_is_pinned_so_that_runs_of_other_machines_can_be_repeated() -> None:
    assert derive(1, 2, "c0003", "batches") == 5290554203734654289


def test_every_argument_matters() -> None:
    base = (1, 2, "c0003", "batches")
    others = [(0, 2, "c0003", "batches"), (1, 3, "c0003", "batches"), (1, 2, "c0004", "batches"), (1, 2, "c0003", "x")]
    assert len({derive(*base), *(derive(*other) for other in others)}) == 5


def test_fields_do_not_run_into_each_other() -> None:
    assert derive(1, 23, "", "a") != derive(12, 3, "", "a")


def test_generators_are_fresh() -> None:
    first = torch.rand(3, generator=generator(1, 2, "c", "p"))
    assert torch.equal(first, torch.rand(3, generator=Randomness(1, 2, "c").generator("p")))
