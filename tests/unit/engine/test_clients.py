"""Simulated clients are prepared when they are asked for, and few are kept: a million cost what a cohort costs."""

from __future__ import annotations

from pathlib import Path

import torch

from foedus.data.dataset import Columns
from foedus.data.population import Federation, Generated, federation
from foedus.engine.choice import Engine
from foedus.engine.clients import MIB, Clients
from foedus.engine.prepare import Prepared
from foedus.engine.simulate import simulate_on
from tests.plans import prepared

EAGER = Engine("eager", "inline")


def _columns(place: int) -> Columns:
    generator = torch.Generator().manual_seed(place)
    return {"image": torch.rand(20, 64, generator=generator) * 16, "label": torch.arange(20) % 10}


def _ready(folder: Path, **changes: object) -> Prepared:
    data = {"name": "digits", "partition": {"name": "iid", "clients": 4}, **changes}
    return prepared(folder, data=data, rounds=3, cohort={"size": 5})


def test_of_a_million_clients_only_the_cohorts_are_read(tmp_path: Path) -> None:
    read: list[int] = []

    def function(place: int) -> Columns:
        read.append(place)
        return _columns(place)

    result = simulate_on(_ready(tmp_path), federation(Generated(10**6, function)), EAGER)
    cohorts = [record.phases[0].asked for record in result.rounds]
    assert all(len(cohort) == 5 and list(cohort) == sorted(cohort) for cohort in cohorts)
    asked = {int(name[1:]) for record in result.rounds for phase in record.phases for name in phase.asked}
    assert asked <= set(read)
    assert len(set(read)) <= len(asked) + 16


def test_a_mapping_gives_the_same_bits_as_the_same_clients_on_demand(tmp_path: Path) -> None:
    lazy = federation(Generated(30, _columns))
    whole = Federation({name: lazy.clients[name] for name in lazy.names})
    digests = {simulate_on(_ready(tmp_path), clients, EAGER).model_digest for clients in (lazy, whole)}
    assert len(digests) == 1


def test_the_clients_asked_for_last_are_kept_up_to_the_limit(tmp_path: Path) -> None:
    read: list[int] = []

    def function(place: int) -> Columns:
        read.append(place)
        return {"image": torch.zeros(1000, 64), "label": torch.zeros(1000)}

    clients = Clients(_ready(tmp_path, cache=1), federation(Generated(100, function)))
    names = clients.federation.names
    for at in (0, 1, 2, 0, 3, 0, 1):
        assert clients(names[at]).name == names[at]
        assert clients.held <= MIB
    assert read == [0, 1, 2, 3, 1]


def test_one_client_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    clients = Clients(
        _ready(tmp_path, cache=1),
        federation([{"image": torch.zeros(5000, 64), "label": torch.zeros(5000)}, _columns(1)]),
    )
    assert clients("c0000") is clients("c0000")
    clients("c0001")
    assert list(clients.ready) == ["c0001"]
