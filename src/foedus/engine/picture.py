"""A run's curves as a picture, for papers and slides. Only who draws one waits for matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foedus.engine.history import RoundRow
from foedus.engine.report import COLOUR_OF, OTHER, curves_by_metric

STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "font.family": "sans-serif",
    "font.size": 10,
    "legend.frameon": False,
    "grid.color": "#e3e6ea",
}


def curves_figure(rows: Sequence[RoundRow]) -> Figure:
    """The metrics' curves beside one another."""
    curves = curves_by_metric(rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * max(len(curves), 1), 3.2), layout="constrained")
        for at, (metric, places) in enumerate(curves.items()):
            axes = figure.add_subplot(1, len(curves), at + 1)
            for where, points in places.items():
                _draw(axes, where, points)
            axes.set_title(metric)
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
    return figure


def curves_png(rows: Sequence[RoundRow]) -> bytes:
    """:func:`curves_figure` as a PNG on white, 150 dots per inch."""
    content = io.BytesIO()
    with mpl.rc_context(STYLE):
        curves_figure(rows).savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def _draw(axes: Axes, where: str, points: Sequence[tuple[float, float]]) -> None:
    rounds, values = [x for x, _ in points], [y for _, y in points]
    marker = "o" if len(points) <= 30 else ""
    axes.plot(rounds, values, color=COLOUR_OF.get(where, OTHER), label=where, marker=marker, markersize=3.5)
