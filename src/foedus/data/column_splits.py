"""Partitions that change columns: a vertical split, and noise on features that grows from client to client."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foedus.data.dataset import Columns
from foedus.data.divisions import Minimum, Rows, too_thin
from foedus.data.files import check_column
from foedus.data.population import Numbered, OnDemand
from foedus.domain.errors import DataError
from foedus.domain.rng import generator
from foedus.domain.table import Table, Text

ROW = "row"
"""The column that says which rows of vertical parts belong together."""


class VerticalOptions(Table):
    """``column``: the ``[n, d]`` one that is cut, where there are several. ``label``: who has it."""

    column: Text | None = None
    label: Literal["first", "all"] = "first"


class NoiseOptions(Table):
    """``sigma``: the variance of the last client's noise, in the squared unit of the column. ``column``: which one."""

    sigma: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    column: Text | None = None
    minimum: Minimum = 1


def vertical(rows: Rows, clients: int, options: VerticalOptions) -> OnDemand:
    """Every client has all rows, and some of the columns: neighbouring ones of ``[n, d]``, or named ones in turn.

    A column ``row`` ``[n]`` says which rows belong together; the label is the first client's, the *guest* in the words
    of Liu et al., Vertical Federated Learning, TKDE 2024 (https://arxiv.org/abs/2211.12814).

    Raises:
        DataError: ``partition_too_thin``, ``column_missing``.
    """
    features = {name: column for name, column in rows.columns.items() if name != rows.label}
    wide = options.column or next((name for name, column in features.items() if column.ndim == 2), None)
    if wide is not None:
        check_column(features, wide, "The data set")
        features = {wide: features[wide]}
    units = features[wide].shape[1] if wide else len(features)
    if units < clients:
        raise too_thin(f"{clients} clients share {units} columns")
    cuts = np.array_split(np.arange(units), clients)
    shared: dict[str, Tensor] = {ROW: torch.arange(rows.count)}

    def read(place: int) -> Columns:
        mine = cuts[place].tolist()
        own = (
            {wide: features[wide][:, mine]}
            if wide
            else {list(features)[at]: list(features.values())[at] for at in mine}
        )
        labelled = rows.label in rows.columns and (place == 0 or options.label == "all")
        return {**shared, **own, **({rows.label: rows.columns[rows.label]} if labelled else {})}

    return OnDemand(Numbered(clients), read)


def noisy(clients: OnDemand, options: NoiseOptions, label: str, seed: int) -> OnDemand:
    """Client ``i`` of ``N`` (from 1) sees its features with Gaussian noise of variance ``sigma · i / N`` on them.

    Feature distribution skew by noise: Li, Diao, Chen and He, Federated Learning on Non-IID Data Silos, ICDE 2022,
    section IV-B (https://arxiv.org/abs/2102.02079). The noise follows from the seed and the client's name; noisy
    columns are float32.

    Raises (when a client is read):
        DataError: ``column_missing``.
    """

    def read(place: int) -> Columns:
        name, columns = clients.names[place], clients.read(place)
        chosen = options.column or next((one for one in columns if one != label), None)
        if chosen is None:
            raise DataError("column_missing", "The data set has no features beside its label.", "", "Name a `column`.")
        check_column(columns, chosen, "The data set")
        values = columns[chosen].float()
        drawn = torch.randn(values.shape, generator=generator(seed, 0, name, "feature_noise"))
        deviation = (options.sigma * (place + 1) / len(clients)) ** 0.5
        return {**columns, chosen: values + deviation * drawn}

    return OnDemand(clients.names, read)
