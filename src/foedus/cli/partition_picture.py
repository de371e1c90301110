"""A partition as a picture: what each client holds. Only who draws one waits for matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foedus.data.summary import Holding
from foedus.domain.errors import StorageError

STACKED = 60
"""So many clients are drawn as stacked bars; of more, shares of labels are drawn as shades."""


def save(holdings: Sequence[Holding], title: str, path: Path) -> None:
    """Draw the clients' sizes and labels into a PNG, SVG or PDF file.

    Raises:
        StorageError: ``file_unwritable``.
    """
    with mpl.rc_context({"axes.spines.right": False, "axes.spines.top": False, "svg.hashsalt": "foedus"}):
        figure = draw(holdings, title)
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise StorageError(
                "file_unwritable",
                f"{path} cannot be written.",
                str(error),
                "Name a file that ends in .png, .svg or .pdf.",
            ) from error


def draw(holdings: Sequence[Holding], title: str) -> Figure:
    """The figure: bars of labels on one another where clients are few, else sizes above shades of labels."""
    labels = sorted({label for one in holdings for label in one.labels})
    counts = np.array([[one.labels.get(label, 0) for label in labels] for one in holdings]).reshape(len(holdings), -1)
    sizes = np.array([one.examples for one in holdings])
    width = min(4 + 0.2 * len(holdings), 14)
    if len(holdings) <= STACKED or not labels:
        figure = Figure(figsize=(width, 4), layout="constrained")
        axes = figure.add_subplot()
        _stack(axes, sizes, counts, labels)
        _name(axes, holdings)
    else:
        figure = Figure(figsize=(width, 6), layout="constrained")
        upper, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        _stack(upper, sizes, counts[:, :0], [])
        shares = counts / np.maximum(sizes, 1)[:, None]
        shade = axes.imshow(shares.T, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_yticks(range(len(labels)), [str(label) for label in labels])
        axes.set_ylabel("label")
        axes.set_xlabel(f"{len(holdings)} clients, in the order of their names")
        figure.colorbar(shade, ax=axes, label="share of the client's examples")
    figure.suptitle(title)
    return figure


def _stack(axes: Axes, sizes: np.ndarray, counts: np.ndarray, labels: Sequence[int]) -> None:
    places, bottom = np.arange(len(sizes)), np.zeros(len(sizes))
    if not labels:
        axes.bar(places, sizes, width=0.9)
    colours = mpl.colormaps["tab10" if len(labels) <= 10 else "turbo"]
    for at, label in enumerate(labels):
        colour = colours(at if len(labels) <= 10 else at / max(len(labels) - 1, 1))
        axes.bar(places, counts[:, at], width=0.9, bottom=bottom, color=colour, label=str(label))
        bottom += counts[:, at]
    axes.set_ylabel("examples")
    if 0 < len(labels) <= 20:
        axes.legend(title="label", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")


def _name(axes: Axes, holdings: Sequence[Holding]) -> None:
    if len(holdings) <= STACKED:
        axes.set_xticks(range(len(holdings)), [one.client for one in holdings], rotation=90, fontsize="x-small")
    else:
        axes.set_xlabel(f"{len(holdings)} clients, in the order of their names")
