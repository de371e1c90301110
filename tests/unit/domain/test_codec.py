"""The codec: what goes in comes out, and what lies is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus.domain.codec import TensorFile, decode, encode, encode_tensors
from foedus.domain.errors import IntegrityError, TooLargeError
from foedus.domain.header import HEADER_LIMIT
from foedus.domain.tree import State, dtypes, same

names = st.text("abcxyz._0123456789", min_size=1, max_size=12)
kinds = st.sampled_from(sorted(dtypes))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any legal dtype, with up to three dimensions, of which any may be 0."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = dtypes[draw(kinds)]
    values = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=64, max_size=64)))
    return values[: int(torch.tensor(shape).prod())].reshape(shape).to(dtype)


states = st.builds(
    State,
    st.dictionaries(st.sampled_from(["model", "momentum"]), st.dictionaries(names, tensors(), min_size=1, max_size=4)),
    st.dictionaries(names, st.integers() | st.text(max_size=5) | st.booleans(), max_size=3),
)


@given(states)
def test_a_state_comes_back_bit_by_bit(state: State) -> None:
    back = decode(encode(state))
    assert back.data == state.data
    assert back.tensors.keys() == state.tensors.keys()
    assert all(same(back.tensors[part], state.tensors[part]) for part in state.tensors)


@given(states)
def test_encoding_is_canonical(state: State) -> None:
    assert encode(decode(encode(state))) == encode(state)


def test_the_reference_library_reads_what_we_write_and_we_read_what_it_writes() -> None:
    model = {"a.weight": torch.randn(3, 4), "n": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}
    assert same(safetensors.torch.load(encode_tensors(model)), model)
    theirs = decode(safetensors.torch.save({f"model/{name}": tensor for name, tensor in model.items()}))
    assert same(theirs.tensors["model"], model)


def test_a_file_is_read_by_range(tmp_path: Path) -> None:
    tensor = torch.arange(1000.0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors({"a": torch.ones(3), "w": tensor.reshape(10, 100)}))
    with TensorFile(path) as file:
        assert torch.equal(file.read("w", 123, 456), tensor[123:456])
        assert torch.equal(file["w"], tensor.reshape(10, 100))
        assert sorted(file) == ["a", "w"]


def test_ranges_are_read_into_memory_that_is_used_again(tmp_path: Path) -> None:
    tensor, room = torch.randn(1000), memoryview(bytearray(400))
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors({"w": tensor}))
    with TensorFile(path) as file:
        first = file.read("w", 10, 110, into=room)
        assert torch.equal(first, tensor[10:110])
        second = file.read("w", 500, 600, into=room)
        assert torch.equal(second, tensor[500:600]) and torch.equal(first, second)
        assert not len(file.read("w", 7, 7, into=room[:0]))


def test_a_file_that_was_cut_while_open_is_an_error_and_not_half_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors({"w": torch.randn(10_000)}))
    with TensorFile(path) as file:
        os.truncate(path, 4096)
        with pytest.raises(IntegrityError):
            file.read("w", 0, 10_000, into=memoryview(bytearray(40_000)))


def _raw(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body


def _file(table: object, body: bytes = b"", length: int | None = None) -> bytes:
    return _raw(json.dumps(table).encode(), body, length)


def _row(shape: object = (1,), offsets: object = (0, 4), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a pickle": pickle.dumps({"w": [1.0]}),
    "not JSON": (4).to_bytes(8, "little") + b"\xff\xfe{]",
    "a list": _file([1, 2]),
    "a header longer than the file": _file({}, length=10_000),
    "too few bytes": _file({"w": _row()}, b"\0\0"),
    "too many bytes": _file({"w": _row()}, b"\0" * 5),
    "an unknown dtype": _file({"w": _row(dtype="F8_E4M3")}, b"\0" * 4),
    "an object as dtype": _file({"w": _row(dtype=["F32"])}, b"\0" * 4),
    "a negative size": _file({"w": _row(shape=[-1])}, b"\0" * 4),
    "a boolean size": _file({"w": _row(shape=[True])}, b"\0" * 4),
    "a huge size": _file({"w": _row(shape=[2**62, 4])}, b"\0" * 4),
    "a shape that is no list": _file({"w": _row(shape="4")}, b"\0" * 4),
    "overlapping tensors": _file({"a": _row(), "b": _row()}, b"\0" * 4),
    "a gap": _file({"a": _row(), "b": _row(offsets=[8, 12])}, b"\0" * 12),
    "offsets that go back": _file({"w": _row(offsets=[4, 0])}, b"\0" * 4),
    "data that is no table": _file({"__metadata__": {"foedus": "[1]"}}),
    "metadata that is no text": _file({"__metadata__": {"foedus": 5}}),
    "a tensor that stands twice": _raw(b'{"w": %s, "w": %s}' % ((json.dumps(_row()).encode(),) * 2), b"\0" * 4),
    "deep nesting": _file({}, length=60_000)[:8] + b"[" * 60_000,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_bytes_that_are_not_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as refusal:
        decode(content)
    assert refusal.value.code == "not_safetensors"
    with pytest.raises(IntegrityError):
        TensorFile(path)


def test_a_header_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes((HEADER_LIMIT + 1).to_bytes(8, "little"))
    os.truncate(path, HEADER_LIMIT + 100)
    with pytest.raises(TooLargeError) as refusal:
        TensorFile(path)
    assert refusal.value.code == "header_too_large"


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(content)


@settings(max_examples=200)
@given(states, st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_is_refused_or_stays_a_legal_state(state: State, at: int, value: int) -> None:
    content = bytearray(encode(state))
    content[at % len(content)] = value
    try:
        back = decode(content)
    except IntegrityError:
        return
    again = decode(encode(back))
    assert again.data == back.data
    assert all(same(again.tensors[part], tensors) for part, tensors in back.tensors.items())
