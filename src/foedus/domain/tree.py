"""Named tensors and states: the values that every floor passes on.

``Tensors`` maps a name to a tensor; ``Parts`` groups such maps (parameters, buffers, an optimizer's moments).
``State`` is parts plus plain data: server state, client state, a checkpoint and a test fixture are all one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foedus.domain.header import TensorSpec
from foedus.domain.plain import Json

names_of_dtypes = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
dtypes = {name: dtype for dtype, name in names_of_dtypes.items()}

Tensors = Mapping[str, Tensor]
Parts = Mapping[str, Tensors]


@dataclass(frozen=True)
class State:
    """Parts of named tensors and plain data."""

    tensors: Parts = field(default_factory=dict)
    data: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A range of one tensor's elements, flattened: ``start <= i < stop``. Contributions are folded by slices."""

    part: str
    name: str
    start: int
    stop: int


def device_of(tensors: Tensors) -> torch.device:
    """Where the tensors are; they are all in one place."""
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))


def placed(parts: Parts, device: str) -> Parts:
    """The same tensors on a device; those that are there already are not copied."""
    return {part: {name: tensor.to(device) for name, tensor in tensors.items()} for part, tensors in parts.items()}


def clone(tensors: Tensors) -> dict[str, Tensor]:
    """A copy that the caller may write to."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def size_in_bytes(tensors: Tensors) -> int:
    """The bytes that the tensors' elements take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def specs(tensors: Tensors) -> dict[str, TensorSpec]:
    """The shapes and dtypes of tensors."""
    return {name: TensorSpec(tuple(tensor.shape), names_of_dtypes[tensor.dtype]) for name, tensor in tensors.items()}


def flatten(parts: Parts) -> dict[str, Tensor]:
    """One map with ``part/name`` as names; part names hold no slash.

    >>> sorted(flatten({"parameters": {"a": torch.zeros(1)}, "buffers": {"b/c": torch.zeros(1)}}))
    ['buffers/b/c', 'parameters/a']
    """
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def slices(sizes: Mapping[tuple[str, str], int], limit: int) -> Iterator[Slice]:
    """Cut tensors of the given numbers of elements into slices of at most ``limit`` elements, in order."""
    for (part, name), size in sizes.items():
        for start in range(0, max(size, 1), limit):
            yield Slice(part, name, start, min(start + limit, size))


def to_bytes(tensor: Tensor) -> bytes:
    """The elements, row by row, little-endian."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def model_digest(tensors: Tensors) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of parameters and buffers, names sorted by their UTF-8 bytes.

    >>> model_digest({"w": torch.zeros(2)})[:8]
    '4ae5fd52'
    """
    whole = hashlib.sha256()
    for name in sorted(tensors, key=lambda name: name.encode()):
        tensor = tensors[name]
        shape = ",".join(str(size) for size in tensor.shape)
        whole.update(f"{name}\0{names_of_dtypes[tensor.dtype]}\0{shape}\0".encode())
        whole.update(to_bytes(tensor))
    return whole.hexdigest()


def same(first: Tensors, second: Tensors) -> bool:
    """Whether both hold the same names, dtypes, shapes and bits."""
    return first.keys() == second.keys() and model_digest(first) == model_digest(second)
