"""The table of contents of a safetensors file: written, read strictly, and free of torch, so that an agent can read it.

A file is an 8-byte little-endian header length, a JSON header (name → dtype, shape, offsets; ``__metadata__`` holds
text), and the elements. Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from foedus.domain.errors import IntegrityError, TooLargeError
from foedus.domain.plain import Json

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of one element of each dtype that there is."""

HEADER_LIMIT = 8 << 20
TENSORS_LIMIT = 20_000
KEY = "foedus"


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype (in safetensors' names, ``F32`` …) of one tensor."""

    shape: tuple[int, ...]
    dtype: str


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
        length = math.prod(spec.shape) * WIDTHS[spec.dtype]
        table[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    entries = {name: Entry(spec, len(head) + table[name]["data_offsets"][0]) for name, spec in specs.items()}
    return head, Header(entries, data, len(head) + at)


def read_header(file: BinaryIO) -> Header:
    """The header of an open file.

    Raises:
        IntegrityError: ``not_safetensors``: the bytes are something else, or their lengths lie.
        TooLargeError: ``header_too_large``.
    """
    total = os.fstat(file.fileno()).st_size
    start = os.pread(file.fileno(), 8, 0)
    claimed = int.from_bytes(start, "little") if len(start) == 8 else 0
    return parse_header(os.pread(file.fileno(), 8 + min(claimed, HEADER_LIMIT), 0), total)


def parse_header(start: bytes | memoryview, total: int) -> Header:
    """The header of a file of ``total`` bytes that begins with ``start``; every claim in it is checked.

    Offsets must cover the elements without gap or overlap, in the order of the header, and end with the file.
    """
    if len(start) < 8:
        raise not_safetensors("it is shorter than a header")
    length = int.from_bytes(start[:8], "little")
    if 8 + length > total:
        raise not_safetensors("the header's length goes past the end")
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
        raise not_safetensors("the header is not the JSON that it must be") from error
    if not isinstance(data, dict) or len(rows) > TENSORS_LIMIT:
        raise not_safetensors(f"it holds more than {TENSORS_LIMIT} tensors, or data that is not a table")
    entries = _check_rows(rows, 8 + length, total)
    return Header(entries, data, total)


def not_safetensors(why: str) -> IntegrityError:
    """The refusal of bytes that are no such file, and why."""
    return IntegrityError(
        "not_safetensors",
        "These bytes are not a safetensors file.",
        why[:1].upper() + why[1:] + ".",
        "Send the file that was written.",
    )


def _check_rows(rows: list[tuple[str, Any, Any, Any]], first: int, total: int) -> dict[str, Entry]:
    entries, at = {}, 0
    for name, dtype, shape, offsets in sorted(rows, key=lambda row: row[3] if _pair(row[3]) else [0, 0]):
        sizes_fit = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**40 for size in shape)
        legal_dtype = isinstance(dtype, str) and dtype in WIDTHS
        if not (sizes_fit and legal_dtype and _pair(offsets)) or len(shape) > 16:
            raise not_safetensors("a tensor has no legal dtype, shape or offsets")
        spec = TensorSpec(tuple(shape), dtype)
        if offsets[0] != at or offsets[1] - at != math.prod(shape) * WIDTHS[spec.dtype]:
            raise not_safetensors("a tensor's offsets do not match its shape")
        entries[name] = Entry(spec, first + at)
        at = offsets[1]
    if first + at != total:
        raise not_safetensors("its length is not what the header says")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice: readers would differ in which one counts")
    return found


def _pair(offsets: Any) -> bool:
    return isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int and at >= 0 for at in offsets)
