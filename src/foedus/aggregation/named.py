"""The aggregator that a strategy's table ``aggregator`` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field

from foedus.aggregation.aggregator import Aggregator
from foedus.aggregation.columns import by_columns
from foedus.aggregation.mean import weighted_mean
from foedus.aggregation.robust import median, trimmed_mean
from foedus.domain.table import Table


class AggregatorOptions(Table):
    """How contributions become one: the weighted ``mean``, or by columns the ``median`` or the ``trimmed_mean``.

    ``trim``: the share of values that the trimmed mean leaves out at each end.
    """

    name: Literal["mean", "median", "trimmed_mean"] = "mean"
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1


def aggregator_of(
    options: AggregatorOptions, weight_of: Mapping[str, str], dtypes: Mapping[str, Mapping[str, torch.dtype]]
) -> Aggregator:
    """The aggregator; ``weight_of`` and ``dtypes`` as in :func:`foedus.aggregation.mean.weighted_mean`."""
    if options.name == "mean":
        return weighted_mean(weight_of, dtypes)
    return by_columns(median if options.name == "median" else trimmed_mean(options.trim), dtypes)
