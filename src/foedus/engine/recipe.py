"""How a plan runs as a graph: what kernel ``graph`` needs to know, and all that its bits depend on beside the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from foedus.domain.errors import IntegrityError
from foedus.domain.plain import Json
from foedus.domain.round import FOLD_BLOCK

WIDTHS = (10, 5, 2, 1)
"""How many clients a graph may be traced for; what is left of a stack is run in pieces of these."""


@dataclass(frozen=True)
class Recipe:
    """How a plan runs as a graph: so many clients in a stack, batches ``padded`` or whole, of ``rows`` rows.

    ``kept`` are the places in a carry that no step writes to; where they are the same for all, they are not stacked.
    ``factored`` are the weights in it that are kept as factors (:mod:`foedus.engine.factored`), with the numbers that
    their steps are multiplied with; ``inputs`` are those of them that multiply a column of the batch, with its place.
    ``still``: a step on rows of no weight leaves a carry as it is, bit for bit. ``other``: the multiply-adds from
    which a product of two matrices goes to the other library (:mod:`foedus.engine.precision`), 0 for none. ``turned``:
    the multiply-adds from which products with a weight have it on the left (:func:`foedus.engine.programs.turn`), 0
    for none.
    ``channels_last``: what has four dimensions, as a convolution's weight, lies in memory with the second one last.
    ``block``: clients that are folded together.
    """

    stack: int
    padded: bool
    rows: int
    kept: frozenset[int] = frozenset()
    factored: Mapping[int, float] = field(default_factory=dict)
    inputs: Mapping[int, int] = field(default_factory=dict)
    still: bool = False
    other: int = 0
    turned: int = 0
    channels_last: bool = False
    block: int = FOLD_BLOCK

    @property
    def widths(self) -> tuple[int, ...]:
        """How many clients the graphs are traced for."""
        if not self.still:
            return tuple(sorted({self.stack, *(width for width in WIDTHS if width <= self.stack)}, reverse=True))
        halves = (self.stack, -(-self.stack // 2), -(-self.stack // 4))
        return halves if self.stack > WIDTHS[0] else halves[:2]

    def pieces(self, active: int) -> list[int]:
        """Pieces for so many clients; where a step without rows changes nothing, one piece that may have more."""
        if self.still:
            return [min(width for width in self.widths if width >= active)]
        found = []
        while active:
            found.append(next(width for width in self.widths if width <= active))
            active -= found[-1]
        return found

    def plain(self) -> dict[str, Json]:
        """The recipe as it is recorded."""
        return {
            "stack": self.stack,
            "padded": self.padded,
            "rows": self.rows,
            "kept": [*sorted(self.kept)],
            "factored": {str(at): scale for at, scale in sorted(self.factored.items())},
            "inputs": {str(at): column for at, column in sorted(self.inputs.items())},
            "still": self.still,
            "other": self.other,
            "turned": self.turned,
            "channels_last": self.channels_last,
            "block": self.block,
        }

    def words(self) -> str:
        """The recipe for people."""
        together = f"stacks of {self.stack}" if self.stack > 1 else "one client at a time"
        batches = "batches padded" if self.padded else "whole batches"
        factored = [f"{len(self.factored)} weights kept as factors"] if self.factored else []
        layout = ["channels last"] if self.channels_last else []
        products = ["large matrix products by oneDNN"] if self.other else []
        turned = ["large weights on the left of matrix products"] if self.turned else []
        return ", ".join([together, batches, *factored, *layout, *products, *turned])


def recipe_of(plain: Mapping[str, Json]) -> Recipe:
    """The recipe that was recorded.

    Raises:
        IntegrityError: ``choice_malformed``.
    """
    try:
        return TypeAdapter(Recipe).validate_python(dict(plain))
    except ValidationError as error:
        raise IntegrityError(
            "choice_malformed", "The checkpoint does not say how the run was computed.", "", "Begin the run anew."
        ) from error
