"""Shared memory: what is written is read by another process, and what does not fit goes another way."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from foedus.domain.tree import same
from foedus.engine.memory import Arena, room

TREE = {
    "parameters": {"w": torch.arange(6, dtype=torch.float32).view(2, 3), "empty": torch.zeros(0, 4)},
    "buffers": {"n": torch.tensor(7), "half": torch.ones(3, dtype=torch.bfloat16), "flag": torch.tensor([True, False])},
}


def test_trees_come_back_as_they_were() -> None:
    arena = Arena(4096)
    other = {"p": {"x": torch.full((5,), 2.5, dtype=torch.float64)}}
    for tree, packed in zip((TREE, other), arena.write([TREE, other]), strict=True):
        assert not isinstance(packed, bytes)
        found = arena.read(packed)
        assert found.keys() == tree.keys()
        assert all(same(found[part], tree[part]) for part in tree)


def test_a_forked_process_reads_what_is_written_later_and_answers() -> None:
    there, back = Arena(4096), Arena(4096)
    here, pipe = multiprocessing.Pipe()

    def child() -> None:
        tree = there.read(pipe.recv())
        pipe.send(back.write([{"p": {"w": tree["parameters"]["w"] + 1}}]))

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    here.send(there.write([TREE])[0])
    (packed,) = here.recv()
    process.join()
    assert torch.equal(back.read(packed)["p"]["w"], TREE["parameters"]["w"] + 1)


def test_what_does_not_fit_crosses_as_bytes() -> None:
    arena = Arena(0)
    large = {"p": {"w": torch.arange(arena.size, dtype=torch.float32)}}
    small = {"p": {"w": torch.ones(3)}}
    packed = arena.write([large, small])
    assert isinstance(packed[0], bytes)
    assert torch.equal(arena.read(packed[0])["p"]["w"], large["p"]["w"])
    assert torch.equal(arena.read(packed[1])["p"]["w"], small["p"]["w"])


@pytest.mark.parametrize("elements", [0, 1, 16, 17])
def test_room_is_what_a_tree_takes(elements: int) -> None:
    assert room({"p": {"w": torch.zeros(elements)}}) == -(-4 * elements // 64) * 64
