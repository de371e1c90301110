"""Image folders, one folder per class: ``class/anything.png`` (extra ``images``)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from foedus.data.dataset import Columns
from foedus.data.sources.source import Pool, Request, Source, check_size, missing, required_folder, unreadable
from foedus.domain.errors import DataError
from foedus.domain.table import Table, Text

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
LAYOUT = "`[data] folder` has one folder of images per class, or `train` and `test`, each with those."


class ImageOptions(Table):
    """``mode``: grey or colours. ``size``: the side in pixels that images are scaled to; none where they are alike.

    ``classes``: a folder's name → its label (none: labels are the places of the sorted names).
    """

    mode: Literal["L", "RGB"] = "RGB"
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    classes: dict[Text, Annotated[int, Field(ge=0, le=2**31)]] = Field(default_factory=dict, max_length=10_000)


def read(request: Request) -> Pool:
    """``image`` ``[n, height, width]`` (grey) or ``[n, 3, height, width]`` uint8, ``label`` ``[n]`` by sorted classes.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_ragged``, ``dataset_too_large``.
    """
    folder = required_folder(request, LAYOUT)
    train = folder / "train"
    classes = _classes(train if train.is_dir() else folder)
    if not classes:
        raise missing(request.name, f"a folder per class in {folder}", LAYOUT)
    columns = _part(request, train if train.is_dir() else folder, classes)
    return Pool(columns, _part(request, folder / "test", classes) if request.test else None)


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _numbers(classes: list[str], known: Mapping[str, int]) -> dict[str, int]:
    """Each folder's label: its place, or the number that its name was given."""
    if lacking := sum(name not in known for name in classes) if known else 0:
        raise DataError(
            "class_unknown",
            f"{lacking} of {len(classes)} folders are of classes that have no number.",
            f"There are {len(known)} numbers.",
            "Give each folder's name a number, or take the folder away.",
        )
    return {name: known.get(name, at) for at, name in enumerate(classes)}


def _part(request: Request, folder: Path, classes: list[str]) -> Columns:
    numbers = _numbers(classes, request.options.classes)
    files = [(file, number) for name, number in numbers.items() for file in _images(folder / name)]
    if not files:
        raise missing(request.name, f"images in {folder}", LAYOUT)
    images = []
    for file, _ in files:
        images.append(_image(file, request.options))
        if len(images) == 1:
            check_size(images[0].nbytes * len(files), f"The folder {folder.name}, unpacked,")
        if images[-1].shape != images[0].shape:
            sizes = [f"{image.shape[1]}×{image.shape[0]}" for image in (images[0], images[-1])]
            raise DataError(
                "dataset_ragged",
                f"The images differ in size: {files[0][0].name} has {sizes[0]}, {file.name} {sizes[1]}.",
                "A batch needs images of one size.",
                "Give `[data] options.size`, the side to scale them to.",
            )
    stacked = torch.from_numpy(np.stack(images))
    image = stacked if request.options.mode == "L" else stacked.permute(0, 3, 1, 2).contiguous()
    return {"image": image, "label": torch.tensor([number for _, number in files])}


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS) if folder.is_dir() else []


def _image(file: Path, options: ImageOptions) -> np.ndarray:
    """The pixels ``[height, width(, 3)]``; Pillow itself refuses images of too many."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                scaled = image.convert(options.mode)
                return np.array(scaled.resize((options.size, options.size)) if options.size else scaled)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise unreadable(file, f"{type(error).__name__}.") from error


SOURCE = Source(read, ImageOptions)
