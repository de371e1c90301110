"""Data sets of Hugging Face's library ``datasets`` (extra ``huggingface``): saved in a folder, or by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from foedus.data.dataset import Columns
from foedus.data.files import check_column
from foedus.data.population import Federation, OnDemand
from foedus.data.sources.columnar import clients_in, columns_of
from foedus.data.sources.source import (
    Pool,
    Request,
    Source,
    check_size,
    missing,
    reading,
    required_folder,
)
from foedus.domain.table import Table, Text

LAYOUT = (
    "`[data] folder` is where `save_to_disk` wrote a data set; or `[data] options.dataset` names one of the hub, which "
    "the library downloads."
)
PICTURES = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class HubOptions(Table):
    """``dataset`` and ``config`` name a data set of the hub; ``columns`` are those to read (none: all)."""

    dataset: Text | None = None
    config: Text | None = None
    split: Text = "train"
    test_split: Text = "test"
    columns: list[Text] | None = None


def read(request: Request) -> Pool | Federation:
    """One pool, or the clients that the column ``[data] client`` names, whose rows are read when they are asked for.

    Numbers keep their type, lists of one length become dimensions, images become uint8 ``[n, height, width]`` or
    ``[n, channels, height, width]``.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_not_numeric``, ``column_missing``.
    """
    options: HubOptions = request.options
    place = Path(options.dataset) if options.dataset else required_folder(request, LAYOUT)
    train = _split(request, place, options.split)
    test = _columns(request, _split(request, place, options.test_split), place) if request.test else None
    if request.client is None:
        check_size(train.data.nbytes, f"The data set {place.name}")
        return Pool(_columns(request, train, place), test)
    check_column(train.column_names, request.client, place.name)
    keys = train.select_columns([request.client]).with_format("arrow")[:].column(0)
    names, division = clients_in(place, keys)
    return Federation(
        OnDemand(names, lambda at: _columns(request, train.select(division.at(at).tolist()), place)), test
    )


def _split(request: Request, place: Path, split: str) -> Any:
    options: HubOptions = request.options
    with reading(place, OSError, ValueError, KeyError, RuntimeError):
        if options.dataset:
            return datasets.load_dataset(options.dataset, options.config, split=split)
        found = datasets.load_from_disk(str(place))
    if isinstance(found, datasets.Dataset):
        if split != options.split:
            raise missing(request.name, f"a split `{split}` in {place}", LAYOUT)
        return found
    if split not in found:
        raise missing(request.name, f"the split `{split}` in {place} (there are: {', '.join(sorted(found))})", LAYOUT)
    return found[split]


def _columns(request: Request, part: Any, place: Path) -> Columns:
    wanted = request.options.columns or [name for name in part.column_names if name != request.client]
    for name in wanted:
        check_column(part.column_names, name, place.name)
    pictures = [name for name in wanted if isinstance(part.features[name], datasets.Image)]
    table = part.with_format("arrow")[:]
    columns = columns_of(table.select([name for name in wanted if name not in pictures]), place)
    return {**columns, **{name: _pictures(table.column(name).to_pylist(), place) for name in pictures}}


def _pictures(cells: list[Any], place: Path) -> torch.Tensor:
    with reading(place, *PICTURES, KeyError, TypeError):
        arrays = [np.array(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells]
        stacked = torch.from_numpy(np.stack(arrays))
    return stacked.permute(0, 3, 1, 2).contiguous() if stacked.ndim == 4 else stacked


SOURCE = Source(read, HubOptions)
