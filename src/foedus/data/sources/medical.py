"""A medical folder: ``subject/modality/*.nii.gz`` and a table of demographics (extra ``medical``).

The layout is that of Fed-BioMed's medical folders, after BIDS (https://bids.neuroimaging.io).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import nibabel
import numpy as np
import torch
from pydantic import Field

from foedus.data.dataset import Columns
from foedus.data.files import check_column, read_keyed
from foedus.data.sources.source import Pool, Request, Source, check_size, missing, required_folder, unreadable
from foedus.domain.errors import DataError
from foedus.domain.names import NAME
from foedus.domain.table import Table

LAYOUT = "`[data] folder` has a folder per subject, in it a folder per modality, in it one NIfTI file."
ENDINGS = (".nii", ".nii.gz")
NOT_AN_IMAGE = (OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, zlib.error)

Plain = Annotated[str, Field(pattern=r"^[^/\\.][^/\\]{0,254}$")]
Size = Annotated[int, Field(ge=1, le=4096)]


class MedicalOptions(Table):
    """``modalities``: which are wanted (none said: all there are). ``shape``: images are cut or padded to it, centred.

    ``demographics``: a CSV file in the folder, whose column ``subject`` names the subjects' folders; of its other
    columns ``columns`` are taken (none said: all), which are numbers.
    """

    modalities: Annotated[list[Plain], Field(max_length=100)] = Field(default_factory=list)
    shape: Annotated[list[Size], Field(min_length=3, max_length=3)] | None = None
    demographics: Plain | None = None
    subject: Plain = "subject"
    columns: Annotated[list[Plain], Field(max_length=10_000)] = Field(default_factory=list)


def read(request: Request) -> Pool:
    """Each modality as a column ``[n, x, y, z]`` (float32), and the demographics; a row per subject, by name.

    A subject without one of the modalities, or without demographics, is left out. Names of subjects are no column.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_ragged``, ``dataset_too_large``,
            ``dataset_not_numeric``, ``column_missing``.
    """
    folder, options = required_folder(request, LAYOUT), request.options
    subjects = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    modalities = options.modalities or sorted({name for subject in subjects for name in _modalities(subject)})
    if not modalities:
        raise missing(request.name, "a NIfTI file", LAYOUT)
    table, rows = _demographics(folder, options)
    files = {subject.name: [_file(subject / name) for name in modalities] for subject in subjects}
    kept = [name for name, found in files.items() if all(found) and (table is None or name in rows)]
    if not kept:
        raise missing(request.name, "a subject with every modality and with demographics", LAYOUT)
    images = {
        modality: _stacked([path for name in kept if (path := files[name][at]) is not None], modality, options)
        for at, modality in enumerate(modalities)
    }
    index = torch.tensor([rows[name] for name in kept]) if table is not None else None
    return Pool({**images, **_taken(table or {}, index, images)})


def _modalities(subject: Path) -> list[str]:
    return [entry.name for entry in subject.iterdir() if NAME.fullmatch(entry.name) and _file(entry) is not None]


def _file(modality: Path) -> Path | None:
    """The one NIfTI file of a subject's modality; of several the first by name."""
    if not modality.is_dir():
        return None
    return next(iter(sorted(file for file in modality.iterdir() if file.name.lower().endswith(ENDINGS))), None)


def _demographics(folder: Path, options: MedicalOptions) -> tuple[Columns | None, Mapping[str, int]]:
    """The columns of the table, and the row of each subject; nothing where there is none and none was named."""
    path = folder / (options.demographics or "demographics.csv")
    if not path.is_file():
        if options.demographics is None:
            return None, {}
        raise missing("medical", f"the table {options.demographics}", LAYOUT)
    columns, subjects = read_keyed(path, options.subject, options.columns)
    if len(set(subjects)) < len(subjects):
        raise unreadable(path, "It has a subject twice.", "Give each subject one row.")
    for name in options.columns:
        check_column(columns, name, path.name)
    return columns, {name: row for row, name in enumerate(subjects)}


def _taken(table: Columns, index: torch.Tensor | None, images: Columns) -> Columns:
    if both := sorted(set(table) & set(images)):
        raise DataError(
            "dataset_unreadable",
            f"`{both[0]}` is a modality and a column of the demographics.",
            "A name stands for one column.",
            "Rename one of them, or name the `columns` that are wanted.",
        )
    return {} if index is None else {name: column[index] for name, column in table.items()}


def _stacked(files: list[Path], modality: str, options: MedicalOptions) -> torch.Tensor:
    images: list[Any] = []
    for file in files:
        try:
            images.append(_image(file, options.shape, len(files)))
        except NOT_AN_IMAGE as error:
            raise unreadable(file, f"{type(error).__name__}.") from error
        if images[-1].shape != images[0].shape:
            raise DataError(
                "dataset_ragged",
                f"The images of `{modality}` differ in size: {images[0].shape} and {images[-1].shape}.",
                "A batch needs images of one size.",
                "Give the option `shape`: images are cut or padded to it.",
            )
    return torch.from_numpy(np.stack(images))


def _image(file: Path, shape: list[int] | None, count: int) -> Any:
    """The voxels ``[x, y, z]``, scaled as the header says; their number is looked at before they are read."""
    image: Any = _format(file).from_filename(file)
    check_size(4 * math.prod(shape or image.shape) * count, "The images of a modality, unpacked,")
    check_size(8 * math.prod(image.shape), f"The image {file.name}, unpacked,")
    if image.ndim != 3:
        raise ValueError("not an image of three dimensions")
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    return voxels if shape is None else _fitted(voxels, shape)


def _format(file: Path) -> Any:
    """NIfTI of the first or the second version, and no other format that a file of that ending could have."""
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.path_maybe_image(str(file))[0]:
            return kind
    raise ValueError("neither NIfTI 1 nor NIfTI 2")


def _fitted(voxels: Any, shape: list[int]) -> Any:
    """The voxels cut or padded with zeros to ``shape``, about their centre.

    >>> _fitted(np.ones((1, 4, 2)), [3, 2, 2])[:, :, 0].tolist()
    [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """
    made = np.zeros(shape, dtype=voxels.dtype)
    there = [max(0, (have - want) // 2) for have, want in zip(voxels.shape, shape, strict=True)]
    here = [max(0, (want - have) // 2) for have, want in zip(voxels.shape, shape, strict=True)]
    sizes = [min(have, want) for have, want in zip(voxels.shape, shape, strict=True)]
    part = tuple(slice(begin, begin + size) for begin, size in zip(there, sizes, strict=True))
    made[tuple(slice(begin, begin + size) for begin, size in zip(here, sizes, strict=True))] = voxels[part]
    return made


SOURCE = Source(read, MedicalOptions)
