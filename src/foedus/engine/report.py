"""A run's report: one self-contained page with curves, and the same curves as a picture.

Plots are matplotlib's; in the page they are inline SVG whose ink follows the reader's light or dark scheme.
"""

from __future__ import annotations

import importlib.resources
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foedus.domain.round import PhaseRecord, RoundRecord

INK, GRID = "#010203", "#040506"
"""Colours that stand for the page's own; :func:`_svg` replaces them."""

COLOURS = {"train": "#e0872b", "test": "#2f83cc", "up": "#2f83cc", "down": "#e0872b"}
OTHER = "#5aa469"
CLIENTS_SHOWN = 40
STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "font.family": "sans-serif",
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "foedus",
}
PICTURE: dict[Any, Any] = {**STYLE, "grid.color": "#e3e6ea"}
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
PAGE: dict[Any, Any] = {**STYLE, "grid.color": GRID, **dict.fromkeys(INKED, INK)}


@dataclass(frozen=True)
class Report:
    """What a report shows. ``comparison`` has a label and the value of ``measure``, where models were compared."""

    title: str
    subtitle: str
    facts: Mapping[str, str]
    records: Sequence[RoundRecord]
    comparison: Sequence[tuple[str, float]] = ()
    measure: str = "accuracy"


def report_html(report: Report) -> str:
    """The page. It refers to nothing outside itself, and every text in it is escaped."""
    template = importlib.resources.files("foedus.engine").joinpath("report.html").read_text(encoding="utf-8")
    with mpl.rc_context(PAGE):
        figures = "".join(
            f"<figure><figcaption>{escape(caption)}</figcaption>{_svg(figure, number)}</figure>"
            for number, (caption, figure) in enumerate(_figures(report))
        )
    return Template(template).substitute(
        title=escape(report.title),
        subtitle=escape(report.subtitle),
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in report.facts.items()),
        comparison=_comparison(report),
        figures=figures,
        rounds=_rounds(report.records),
    )


def curves_png(report: Report) -> bytes:
    """The metrics' curves beside one another, as a PNG on white, 150 dots per inch."""
    names = _metric_names(report.records)
    with mpl.rc_context(PICTURE):
        figure = Figure(figsize=(4.6 * max(len(names), 1), 3.2), layout="constrained")
        for at, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), at + 1)
            _curve(axes, report.records, name)
            axes.set_title(name)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def _figures(report: Report) -> Iterable[tuple[str, Figure]]:
    if report.comparison:
        yield f"{report.measure} on the held-out part", _bars(report.comparison)
    for name in _metric_names(report.records):
        figure, axes = _panel()
        _curve(axes, report.records, name)
        yield f"{name} per round", figure
    if report.records:
        yield "Bytes per round", _bytes(report.records)
    for phase in report.records[-1].phases if report.records else ():
        for name in sorted({name for receipt in phase.receipts for name in receipt.metrics}):
            yield f"{phase.phase}/{name} per client, last round", _bars(_per_client(phase, name))


def _metric_names(records: Sequence[RoundRecord]) -> list[str]:
    found = {name for record in records for phase in record.phases for name in phase.metrics}
    return sorted(found, key=lambda name: (name != "loss", name))


def _panel(height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _curve(axes: Axes, records: Sequence[RoundRecord], name: str) -> None:
    for phase in sorted({phase.phase for record in records for phase in record.phases}, reverse=True):
        key = f"{phase}/{name}"
        measured = [record for record in records if key in record.metrics]
        if measured:
            values = [record.metrics[key] for record in measured]
            marker = "o" if len(values) <= 30 else ""
            rounds = [record.round for record in measured]
            axes.plot(rounds, values, color=COLOURS.get(phase, OTHER), label=phase, marker=marker, markersize=3.5)
    _round_axis(axes)


def _bytes(records: Sequence[RoundRecord]) -> Figure:
    figure, axes = _panel()
    rounds = [record.round for record in records]
    sums = {
        "down": [sum(phase.bytes_down for phase in record.phases) / 1e6 for record in records],
        "up": [sum(phase.bytes_up for phase in record.phases) / 1e6 for record in records],
    }
    for label, values in sums.items():
        axes.plot(rounds, values, color=COLOURS[label], label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("MB")
    _round_axis(axes)
    return figure


def _round_axis(axes: Axes) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _bars(rows: Sequence[tuple[str, float]]) -> Figure:
    shown = list(rows[:CLIENTS_SHOWN])
    figure, axes = _panel(0.6 + 0.3 * max(len(shown), 2))
    bars = axes.barh([label for label, _ in shown], [value for _, value in shown], color=COLOURS["test"], height=0.65)
    axes.bar_label(bars, fmt="{:.3g}", padding=3, fontsize=9)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    if len(rows) > len(shown):
        axes.set_xlabel(f"the first {len(shown)} of {len(rows)}, by name")
    return figure


def _per_client(phase: PhaseRecord, name: str) -> list[tuple[str, float]]:
    return [(receipt.client, receipt.metrics[name]) for receipt in phase.receipts if name in receipt.metrics]


def _svg(figure: Figure, number: int) -> str:
    """The figure as an SVG element with ids of its own, inked with the page's colours."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", text)
    return text.replace(INK, "currentColor").replace(GRID, "var(--line)")


def _comparison(report: Report) -> str:
    if not report.comparison:
        return ""
    rows = [[label, f"{value:.4f}"] for label, value in report.comparison]
    return f"<h2>Comparison</h2>{_table(['model', report.measure], rows)}"


def _rounds(records: Sequence[RoundRecord]) -> str:
    names = sorted({name for record in records for name in record.metrics})
    headers = ["round", *names, "clients", "failed", "down (kB)", "up (kB)", "seconds"]
    return _table(headers, [_row(record, names) for record in records])


def _row(record: RoundRecord, names: Sequence[str]) -> list[str]:
    first = record.phases[0].receipts if record.phases else ()
    failed = sum(bool(receipt.failure) for phase in record.phases for receipt in phase.receipts)
    down = sum(phase.bytes_down for phase in record.phases) / 1000
    up = sum(phase.bytes_up for phase in record.phases) / 1000
    values = [f"{record.metrics[name]:.4f}" if name in record.metrics else "" for name in names]
    return [
        str(record.round),
        *values,
        str(len(first)),
        str(failed),
        f"{down:.1f}",
        f"{up:.1f}",
        f"{record.seconds:.2f}",
    ]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
