"""Writes a part of a state into a file, window by window, in any order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from foedus.domain.header import TensorSpec, layout
from foedus.domain.tree import Tensors, dtypes, to_bytes

Window = Mapping[str, tuple[int, int]]
"""Ranges of tensors, by name, that are worked on together."""


class PartWriter:
    """Writes one part of a state into a new file, by position."""

    def __init__(self, path: Path, specs_of: Mapping[str, TensorSpec]) -> None:
        head, self._header = layout(specs_of, {})
        self._file = path.open("wb", buffering=0)
        self._file.write(head)
        self._file.truncate(self._header.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, tensors: Tensors, window: Window) -> None:
        """Write the window's ranges of those tensors that the part has."""
        for name, (start, stop) in window.items():
            entry = self._header.entries.get(name)
            if entry is None:
                continue
            tensor = tensors[name]
            dtype = dtypes[entry.spec.dtype]
            assert tensor.dtype == dtype and tensor.numel() == stop - start, f"the step changed what {name} is"
            content, at = memoryview(to_bytes(tensor)), entry.start + start * dtype.itemsize
            while content:
                written = os.pwrite(self._file.fileno(), content, at)
                content, at = content[written:], at + written
