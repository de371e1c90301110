"""What came of clients' work comes out as it went in, through shared memory with and without room, and as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from foedus.aggregation.aggregator import Sums
from foedus.domain.codec import decode, encode
from foedus.domain.errors import DataError, RunFailedError
from foedus.domain.round import Contribution, Receipt
from foedus.domain.tree import Parts, State, flatten, same
from foedus.engine.kernels import BlockResult, Outcome
from foedus.engine.memory import Arena
from foedus.engine.packing import Read, Write, answer, pack, unpack

PARTS: Parts = {"parameters": {"w": torch.randn(3, 2), "n": torch.tensor(7)}}
STATE = State({"control": {"w": torch.ones(2)}}, {"epoch": 3})


def encoded(trees: Sequence[Parts]) -> list[bytes]:
    return [encode(State(tree)) for tree in trees]


ROOMY, FULL = Arena(1 << 16), Arena(0)
WAYS = {
    "memory": (ROOMY.write, ROOMY.copied),
    "no room": (FULL.write, FULL.copied),
    "bytes": (encoded, lambda content: decode(content).tensors),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[Write, Read]:
    write, read = request.param
    return write, read


def test_a_block_comes_out_as_it_went_in(way: tuple[Write, Read]) -> None:
    receipts = (Receipt("a", {"examples": 2.0}, {"loss": 0.5}), Receipt("b", {}, {}, failure="x: y"))
    block = BlockResult(Sums({"parameters": dict(PARTS["parameters"])}, {"examples": 2.0}, 1), receipts, {"a": STATE})
    back = unpack(pack(block, way[0]), way[1])
    way[0]([{"parameters": {"w": torch.zeros(3, 2)}}])
    assert isinstance(back, BlockResult)
    assert same(flatten(back.sums.tensors), flatten(PARTS)), "in memory of its own, whatever is written afterwards"
    assert (back.sums.weights, back.sums.count, back.receipts) == ({"examples": 2.0}, 1, receipts)
    assert alike(back.states["a"], STATE)


def test_outcomes_come_out_as_they_went_in(way: tuple[Write, Read]) -> None:
    done = Outcome("a", Contribution("a", PARTS, {"examples": 2.0}, {"loss": 0.5}, 0.1), STATE)
    back = unpack(pack([done, Outcome("b", None, STATE, "x: y")], way[0]), way[1])
    way[0]([{"parameters": {"w": torch.zeros(3, 2)}}])
    assert isinstance(back, list)
    one, failed = back
    assert one.contribution is not None
    assert same(flatten(one.contribution.update), flatten(PARTS))
    made = one.contribution
    assert (made.weights, made.metrics, made.seconds) == ({"examples": 2.0}, {"loss": 0.5}, 0.1)
    assert (failed.client, failed.contribution, failed.failure) == ("b", None, "x: y")
    assert alike(failed.state, STATE)


def test_an_error_is_raised_where_it_is_heard() -> None:
    def refuses() -> tuple[()]:
        raise DataError("dataset_empty", "Nothing.")

    heard = answer(refuses)
    with pytest.raises(DataError, match="Nothing"):
        unpack(heard, ROOMY.copied)
    broken = answer(lambda: 1 // 0)
    assert isinstance(broken, RunFailedError)
    assert "ZeroDivisionError" in broken.why


def alike(one: State, two: State) -> bool:
    return same(flatten(one.tensors), flatten(two.tensors)) and one.data == two.data
