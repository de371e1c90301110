"""Names of metrics as records have them (``phase/metric``), in the order in which people read them."""

from __future__ import annotations

from collections.abc import Iterable

PLACES = ("test", "validation", "central", "train")


def ranked(names: Iterable[str]) -> list[str]:
    """What is to be improved before the loss, and what was measured on tests before what was measured in training.

    >>> ranked({"train/loss", "test/loss", "test/accuracy", "central/loss"})
    ['test/accuracy', 'test/loss', 'central/loss', 'train/loss']
    """

    def rank(key: str) -> tuple[int, bool, str]:
        place, _, name = key.rpartition("/")
        return PLACES.index(place) if place in PLACES else len(PLACES), name == "loss", key

    return sorted(names, key=rank)
