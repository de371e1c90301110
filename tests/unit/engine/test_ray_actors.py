"""What an actor's machine must have in common with the driver's, and how answers travel. No Ray is started here."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from foedus.aggregation.aggregator import Sums
from foedus.domain.errors import ConfigError
from foedus.domain.round import Contribution, Receipt
from foedus.domain.tree import Parts, State, flatten, same
from foedus.engine.kernels import BlockResult, Outcome

pytest.importorskip("ray", reason="Ray is not installed: pip install 'foedus[ray]'")

from foedus.engine.ray_actor import Site, pack_block, pack_outcome, unpack_block, unpack_outcome
from foedus.engine.ray_actors import check_site

HERE = Site("here", 1, "1.0", "2.13", "AVX2")
PARTS: Parts = {"parameters": {"w": torch.randn(3, 2), "n": torch.tensor(7)}}
STATE = State({"control": {"w": torch.ones(2)}}, {"epoch": 3})


@pytest.mark.parametrize("change", [{"foedus": "1.1"}, {"torch": "2.12"}])
def test_other_versions_are_refused_with_both_named(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        check_site(HERE, replace(HERE, machine="there", **change))
    assert raised.value.code == "ray_versions_differ"
    assert "there" in raised.value.what
    assert next(iter(change.values())) in raised.value.what


def test_another_kind_of_processor_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_site(HERE, replace(HERE, process=2))
        assert not caplog.records
        check_site(HERE, replace(HERE, machine="there", processor="AVX512"))
    assert [("there" in record.message, "AVX512" in record.message) for record in caplog.records] == [(True, True)]


def test_blocks_and_outcomes_come_out_as_they_went_in() -> None:
    receipts = (Receipt("a", {"examples": 2.0}, {"loss": 0.5}), Receipt("b", {}, {}, failure="x: y"))
    block = BlockResult(Sums({"parameters": dict(PARTS["parameters"])}, {"examples": 2.0}, 1), receipts, {"a": STATE})
    back = unpack_block(pack_block(block))
    assert same(flatten(back.sums.tensors), flatten(PARTS))
    assert (back.sums.weights, back.sums.count, back.receipts) == ({"examples": 2.0}, 1, receipts)
    assert alike(back.states["a"], STATE)
    done = Outcome("a", Contribution("a", PARTS, {"examples": 2.0}, {"loss": 0.5}, 0.1), STATE)
    made = unpack_outcome(pack_outcome(done)).contribution
    assert made is not None
    assert same(flatten(made.update), flatten(PARTS))
    assert (made.weights, made.metrics, made.seconds) == ({"examples": 2.0}, {"loss": 0.5}, 0.1)
    failed = unpack_outcome(pack_outcome(Outcome("b", None, STATE, "x: y")))
    assert (failed.client, failed.contribution, failed.failure) == ("b", None, "x: y")
    assert alike(failed.state, STATE)


def alike(one: State, two: State) -> bool:
    return same(flatten(one.tensors), flatten(two.tensors)) and one.data == two.data
