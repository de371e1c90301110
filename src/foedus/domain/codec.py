"""Trees of named tensors as bytes: the safetensors format, read strictly, by position, and without unpickling.

What a file begins with is :mod:`.header`'s. :class:`TensorFile` reads any range of any tensor with ``pread`` and holds
nothing in memory, so models larger than memory can be folded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from foedus.domain.header import (
    HEADER_LIMIT,
    WIDTHS,
    Entry,
    TensorSpec,
    layout,
    not_safetensors,
    parse_header,
    read_header,
)
from foedus.domain.tree import Parts, State, Tensors, dtypes, flatten, specs, to_bytes

CHUNK = 1 << 18
"""Elements of each operand that are read, checked or folded at once: 1 MB of float32, near the processor."""


def encode(state: State) -> bytes:
    """A state as bytes; names of tensors become ``part/name``, sorted."""
    flat = flatten(state.tensors)
    ordered = {name: flat[name] for name in sorted(flat)}
    head, _ = layout(specs(ordered), state.data)
    return b"".join([head, *(to_bytes(tensor) for tensor in ordered.values())])


def encode_tensors(tensors: Tensors) -> bytes:
    """Plain named tensors, as any reader of safetensors expects them."""
    head, _ = layout(specs(tensors), {})
    return b"".join([head, *(to_bytes(tensor) for tensor in tensors.values())])


def decode(content: bytes | bytearray | memoryview) -> State:
    """The state in ``content``.

    Raises:
        IntegrityError: ``not_safetensors``: the bytes are something else, or their lengths lie.
        TooLargeError: ``header_too_large``.
    """
    view = memoryview(content)
    header = parse_header(view[: 8 + HEADER_LIMIT], len(view))
    tensors = {name: _view(bytearray(view[e.start : e.start + _length(e)]), e) for name, e in header.entries.items()}
    return State(nest(tensors), header.data)


def nest(flat: Tensors) -> Parts:
    """The parts of tensors that are named ``part/name``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in flat.items():
        part, _, name = full_name.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return parts


def _length(entry: Entry) -> int:
    return entry.elements * WIDTHS[entry.spec.dtype]


def _view(content: bytearray | memoryview, entry: Entry) -> Tensor:
    dtype = dtypes[entry.spec.dtype]
    if not content:
        return torch.zeros(entry.spec.shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(entry.spec.shape)


class TensorFile(Mapping[str, Tensor]):
    """An open safetensors file as a map of tensors, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb", buffering=0)
        try:
            self.header = read_header(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __getitem__(self, name: str) -> Tensor:
        entry = self.header.entries[name]
        return self.read(name, 0, entry.elements).reshape(entry.spec.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.entries)

    def __len__(self) -> int:
        return len(self.header.entries)

    def read(self, name: str, start: int, stop: int, into: memoryview | None = None) -> Tensor:
        """The elements ``start <= i < stop`` of one tensor, flattened, in memory of their own, or ``into`` these bytes.

        Raises:
            IntegrityError: ``not_safetensors`` where the file was cut while it was open.
        """
        entry = self.header.entries[name]
        width = WIDTHS[entry.spec.dtype]
        view, at = memoryview(bytearray((stop - start) * width)) if into is None else into, 0
        while at < len(view):
            got = os.preadv(self._file.fileno(), [view[at:]], entry.start + start * width + at)
            if got == 0:
                raise not_safetensors("it was cut while it was read")
            at += got
        return _view(view, Entry(TensorSpec((stop - start,), entry.spec.dtype), 0))

    def state(self) -> State:
        """Everything, in memory."""
        return State(nest(dict(self)), self.header.data)
