"""A population of any size that is computed, not stored: a client's examples follow from the seed and its place.

After Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, section 5.1
(https://arxiv.org/abs/1812.06127): examples lie around a point of the client's own, and a linear model labels them.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from foedus.data.dataset import Columns
from foedus.data.population import Federation, Generated, federation
from foedus.data.sources.source import Request, Source
from foedus.domain.rng import generator
from foedus.domain.table import Table

TESTED = 1000
"""Examples in the test part, each of a client that is in no round."""


class SyntheticOptions(Table):
    """``skew``: the standard deviation of the clients' centres, 0 for clients that are alike."""

    clients: Annotated[int, Field(ge=1, le=10**9)] = 1_000_000
    examples: Annotated[int, Field(ge=1, le=10**6)] = 20
    features: Annotated[int, Field(ge=1, le=10**6)] = 20
    classes: Annotated[int, Field(ge=2, le=10**4)] = 10
    skew: Annotated[float, Field(ge=0, le=1000)] = 1.0


def read(request: Request) -> Federation:
    """``features`` ``[examples, features]`` float32 and ``label`` ``[examples]`` by ``argmax(features @ weights)``."""
    options: SyntheticOptions = request.options
    shape = options.features, options.classes
    weights = torch.randn(shape, generator=generator(request.seed, 0, "", "synthetic weights"))

    def draw(of: str, examples: int, centres: int) -> Columns:
        own = generator(request.seed, 0, of, "synthetic")
        centre = options.skew * torch.randn(centres, options.features, generator=own)
        features = centre + torch.randn(examples, options.features, generator=own)
        return {"features": features, "label": (features @ weights).argmax(1)}

    tested = draw("held_out", TESTED, TESTED) if request.test else None
    return federation(Generated(options.clients, lambda place: draw(str(place), options.examples, 1)), tested)


SOURCE = Source(read, SyntheticOptions)
