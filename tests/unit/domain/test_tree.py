"""Tensor trees: the digest, and cutting into slices."""

from __future__ import annotations

import hashlib
import struct

import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.tree import flatten, model_digest, slices


def test_the_model_digest_is_the_one_that_is_documented() -> None:
    whole = hashlib.sha256()
    whole.update(b"a\0I64\0\0" + struct.pack("<q", 7))
    whole.update(b"b\0F32\x002,1\0" + struct.pack("<ff", 1.0, -2.0))
    model = {"b": torch.tensor([[1.0], [-2.0]]), "a": torch.tensor(7)}
    assert model_digest(model) == whole.hexdigest()


def test_the_digest_tells_names_shapes_and_dtypes_apart() -> None:
    variants = [
        {"w": torch.zeros(2)},
        {"v": torch.zeros(2)},
        {"w": torch.zeros(2, 1)},
        {"w": torch.zeros(2, dtype=torch.float64)},
        {"w": torch.tensor([0.0, -0.0])},
        {"w": torch.zeros(1), "w2": torch.zeros(1)},
    ]
    assert len({model_digest(model) for model in variants}) == len(variants)


def test_a_transposed_tensor_is_digested_by_its_elements() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert model_digest({"w": tensor.T}) == model_digest({"w": tensor.T.contiguous()})


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 20))
def test_slices_cover_every_element_once(sizes: list[int], limit: int) -> None:
    names = {("model", str(at)): size for at, size in enumerate(sizes)}
    seen = {name: [0] * size for name, size in names.items()}
    for piece in slices(names, limit):
        assert piece.stop - piece.start <= limit
        for at in range(piece.start, piece.stop):
            seen[piece.part, piece.name][at] += 1
    assert all(count == 1 for counts in seen.values() for count in counts)


def test_flatten_names_the_part_of_each_tensor() -> None:
    flat = flatten({"parameters": {"w": torch.ones(2)}, "buffers": {"n": torch.tensor(3)}})
    assert sorted(flat) == ["buffers/n", "parameters/w"]
    assert flat["buffers/n"].item() == 3
