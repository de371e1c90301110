"""Trees of named tensors as bytes: the safetensors format, read strictly, by position, and without unpickling.

A file is an 8-byte little-endian header length, a JSON header (name → dtype, shape, offsets; ``__metadata__`` holds
text), and the elements. :class:`TensorFile` reads any range of any tensor with ``pread`` and holds nothing in memory,
so models larger than memory can be folded. Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from foedus.domain.errors import IntegrityError, TooLargeError
from foedus.domain.plain import Json
from foedus.domain.tree import Parts, State, Tensors, TensorSpec, dtypes, flatten, specs, to_bytes

HEADER_LIMIT = 8 << 20
TENSORS_LIMIT = 20_000
KEY = "foedus"
CHUNK = 1 << 18
"""Elements of each operand that are read, checked or folded at once: 1 MB of float32, near the processor."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor's elements are: ``start`` is its first byte, counted from the beginning of the file."""

    spec: TensorSpec
    start: int

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.spec.shape)


@dataclass(frozen=True)
class Header:
    """A file's table of contents; ``size`` is the length that the whole file must have, in bytes."""

    entries: Mapping[str, Entry]
    data: Mapping[str, Json]
    size: int


def layout(specs: Mapping[str, TensorSpec], data: Mapping[str, Json]) -> tuple[bytes, Header]:
    """The header's bytes for tensors of these shapes in this order, and where each will be."""
    table: dict[str, Any] = {"__metadata__": {KEY: json.dumps(data, sort_keys=True, separators=(",", ":"))}}
    at = 0
    for name, spec in specs.items():
        length = math.prod(spec.shape) * _width(spec)
        table[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    entries = {name: Entry(spec, len(head) + table[name]["data_offsets"][0]) for name, spec in specs.items()}
    return head, Header(entries, data, len(head) + at)


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


def parse_header(start: bytes | memoryview, total: int) -> Header:
    """The header of a file of ``total`` bytes that begins with ``start``; every claim in it is checked.

    Offsets must cover the elements without gap or overlap, in the order of the header, and end with the file.
    """
    if len(start) < 8:
        raise _refused("it is shorter than a header")
    length = int.from_bytes(start[:8], "little")
    if 8 + length > total:
        raise _refused("the header's length goes past the end")
    if length > HEADER_LIMIT:
        raise TooLargeError(
            "header_too_large",
            f"The header has {length} bytes; the limit is {HEADER_LIMIT}.",
            "",
            "Send fewer tensors.",
        )
    try:
        table = json.loads(bytes(start[8 : 8 + length]), object_pairs_hook=_unique)
        metadata = table.pop("__metadata__", {})
        data = json.loads(metadata.get(KEY, "{}"))
        rows = [(str(name), row["dtype"], row["shape"], row["data_offsets"]) for name, row in table.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused("the header is not the JSON that it must be") from error
    if not isinstance(data, dict) or len(rows) > TENSORS_LIMIT:
        raise _refused(f"it holds more than {TENSORS_LIMIT} tensors, or data that is not a table")
    entries = _check_rows(rows, 8 + length, total)
    return Header(entries, data, total)


def _check_rows(rows: list[tuple[str, Any, Any, Any]], first: int, total: int) -> dict[str, Entry]:
    entries, at = {}, 0
    for name, dtype, shape, offsets in sorted(rows, key=lambda row: row[3] if _pair(row[3]) else [0, 0]):
        sizes_fit = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**40 for size in shape)
        legal_dtype = isinstance(dtype, str) and dtype in dtypes
        if not (sizes_fit and legal_dtype and _pair(offsets)) or len(shape) > 16:
            raise _refused("a tensor has no legal dtype, shape or offsets")
        spec = TensorSpec(tuple(shape), dtype)
        if offsets[0] != at or offsets[1] - at != math.prod(shape) * _width(spec):
            raise _refused("a tensor's offsets do not match its shape")
        entries[name] = Entry(spec, first + at)
        at = offsets[1]
    if first + at != total:
        raise _refused("its length is not what the header says")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice: readers would differ in which one counts")
    return found


def _pair(offsets: Any) -> bool:
    return isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int and at >= 0 for at in offsets)


def _refused(why: str) -> IntegrityError:
    return IntegrityError(
        "not_safetensors",
        "These bytes are not a safetensors file.",
        why[:1].upper() + why[1:] + ".",
        "Send the file that was written.",
    )


def _width(spec: TensorSpec) -> int:
    return dtypes[spec.dtype].itemsize


def _length(entry: Entry) -> int:
    return entry.elements * _width(entry.spec)


def _view(content: bytearray | memoryview, entry: Entry) -> Tensor:
    dtype = dtypes[entry.spec.dtype]
    if not content:
        return torch.zeros(entry.spec.shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(entry.spec.shape)


class TensorFile(Mapping[str, Tensor]):
    """An open safetensors file as a map of tensors, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb", buffering=0)
        total = os.fstat(self._file.fileno()).st_size
        try:
            start = os.pread(self._file.fileno(), 8, 0)
            claimed = int.from_bytes(start, "little") if len(start) == 8 else 0
            self.header = parse_header(os.pread(self._file.fileno(), 8 + min(claimed, HEADER_LIMIT), 0), total)
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
        width = _width(entry.spec)
        view, at = memoryview(bytearray((stop - start) * width)) if into is None else into, 0
        while at < len(view):
            got = os.preadv(self._file.fileno(), [view[at:]], entry.start + start * width + at)
            if got == 0:
                raise _refused("it was cut while it was read")
            at += got
        return _view(view, Entry(TensorSpec((stop - start,), entry.spec.dtype), 0))

    def state(self) -> State:
        """Everything, in memory."""
        return State(nest(dict(self)), self.header.data)
