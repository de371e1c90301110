"""A run's report: one self-contained page with curves, what clients differed by, bytes, times, and who dropped out."""

from __future__ import annotations

import importlib.resources
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from foedus.domain.round import RoundRecord
from foedus.engine.charts import COLOURS, Series, bar_chart, histogram, line_chart
from foedus.engine.history import NAMED, History, RoundRow
from foedus.engine.metrics import ranked

COLOUR_OF = {"test": COLOURS[0], "train": COLOURS[1], "central": COLOURS[2], "validation": COLOURS[3]}
OTHER = COLOURS[4]
CLIENTS_SHOWN = 40
"""Clients that have a bar or a row of their own; more are shown as a distribution, or counted."""

ROUNDS_SHOWN = 500


@dataclass(frozen=True)
class Report:
    """What a report shows. ``comparison`` has a label and the value of ``measure``, where models were compared.

    ``notes`` are sentences under the facts: which kernel and executor ran and why, why a run stopped early.
    ``clocked``: the virtual clock says something of it.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    history: History
    comparison: Sequence[tuple[str, float]] = ()
    measure: str = "accuracy"
    notes: Sequence[str] = ()
    clocked: bool = False


def report_html(report: Report) -> str:
    """The page. It refers to nothing outside itself, and every text in it is escaped."""
    rows, last = report.history.rows, report.history.last
    sections = {
        "Comparison": _comparison(report),
        "Curves": _grid(curve_figures(rows)),
        "Clients": _clients(report.history) + _grid(_last_round(last)) if last else "",
        "Who dropped out": _dropped(report.history) if rows else "",
        "Bytes and time": _grid(_costs(rows, report.clocked)) if rows else "",
        "Rounds": _rounds(rows),
    }
    body = "".join(f"<h2>{title}</h2>{section}" for title, section in sections.items() if section)
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in report.notes)
    return page(report.title, report.subtitle, f"{facts_list(report.facts)}{notes}{body}")


def page(title: str, subtitle: str, body: str) -> str:
    """A whole page around ``body``, which is HTML; the two texts are escaped here."""
    template = importlib.resources.files("foedus.engine").joinpath("report.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), subtitle=escape(subtitle), body=body)


def facts_list(facts: Mapping[str, str]) -> str:
    """Short facts as cards."""
    cards = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return f"<dl>{cards}</dl>"


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are escaped, which scrolls sideways where the screen is narrow."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(caption: str, chart: str) -> str:
    """A chart under its caption."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"


def curves_by_metric(rows: Sequence[RoundRow]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Metric → where it was measured (``train``, ``test``, ``central``) → points ``(round, value)``."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key in ranked({key for row in rows for key in row.metrics}):
        where, _, metric = key.rpartition("/")
        points = [(float(row.round), row.metrics[key]) for row in rows if key in row.metrics]
        curves.setdefault(metric, {})[where] = points
    return curves


def _grid(figures: Iterable[str]) -> str:
    content = "".join(figures)
    return f'<div class="figures">{content}</div>' if content else ""


def curve_figures(rows: Sequence[RoundRow]) -> Iterator[str]:
    """A figure for each metric, wherever it was measured."""
    for metric, places in curves_by_metric(rows).items():
        lines = []
        for where, points in places.items():
            key = f"{where}/{metric}"
            band = [(float(row.round), *row.bands[key]) for row in rows if key in row.bands]
            lines.append(Series(where, points, COLOUR_OF.get(where, OTHER), band))
        banded = " (shaded: the middle 80 % of clients)" if any(line.band for line in lines) else ""
        yield figure(f"{metric} per round{banded}", line_chart(lines))


def _clients(history: History) -> str:
    """How many clients took part, in a sentence."""
    count = len(history.clients)
    ever = f"{count}" if count <= NAMED else f"More than {NAMED}"
    return f'<p class="soft">{ever} clients took part; a round asked {history.asked} of them.</p>'


def _last_round(record: RoundRecord) -> Iterator[str]:
    for phase in record.phases:
        counted = [receipt for receipt in phase.receipts if not receipt.failure]
        columns = {"examples": [(receipt.client, receipt.weights.get("examples", 0.0)) for receipt in counted]}
        for name in ranked({name for receipt in counted for name in receipt.metrics}):
            columns[name] = [(receipt.client, receipt.metrics[name]) for receipt in counted if name in receipt.metrics]
        for name, rows in columns.items():
            if rows:
                yield _spread(f"{phase.phase}/{name}", rows, COLOUR_OF.get(phase.phase, OTHER))


def _spread(name: str, rows: Sequence[tuple[str, float]], colour: str) -> str:
    """Bars where there are few clients, else a histogram."""
    caption = f"{name} per client, last round"
    if len(rows) <= CLIENTS_SHOWN:
        return figure(caption, bar_chart(rows, colour))
    values = sorted(value for _, value in rows)
    low, middle, high = values[0], statistics.median(values), values[-1]
    said = f"{len(rows)} clients: least {low:.4g}, median {middle:.4g}, most {high:.4g}"
    return figure(caption, f'{histogram(values, name, colour)}<p class="soft">{said}</p>')


def _dropped(history: History) -> str:
    """Each client that failed: how often, when last, and what it said then."""
    if not history.dropouts:
        return "<p>Nobody: every client that was asked contributed.</p>"
    worst = sorted(history.dropouts.items(), key=lambda item: (-item[1].times, item[0]))
    rows = [[name, str(d.times), f"{d.round}, {d.phase}", d.reason] for name, d in worst[:CLIENTS_SHOWN]]
    more = f"<p>… and {len(worst) - CLIENTS_SHOWN} more clients.</p>" if len(worst) > CLIENTS_SHOWN else ""
    return html_table(["client", "times", "last (round, phase)", "what it said then"], rows) + more


def _costs(rows: Sequence[RoundRow], clocked: bool) -> Iterator[str]:
    down = [(float(row.round), row.bytes_down / 1e6) for row in rows]
    up = [(float(row.round), row.bytes_up / 1e6) for row in rows]
    lines = [Series("to clients", down, COLOURS[1]), Series("from clients", up, COLOURS[0])]
    yield figure("bytes per round", line_chart(lines, y_label="MB", zero=True))
    if clocked:
        clock = [(float(row.round), row.virtual_seconds) for row in rows]
        devices = [(float(row.round), row.virtual_client_seconds) for row in rows]
        lines = [Series("virtual clock", clock, COLOURS[4]), Series("clients' devices, added up", devices, COLOURS[5])]
        yield figure("virtual seconds per round", line_chart(lines, y_label="s", zero=True))
    wall = [(float(row.round), row.seconds) for row in rows]
    worked = [(float(row.round), row.client_seconds) for row in rows]
    lines = [Series("wall", wall, COLOURS[4]), Series("clients' work, added up", worked, COLOURS[5])]
    yield figure("seconds per round", line_chart(lines, y_label="s", zero=True))


def _comparison(report: Report) -> str:
    if not report.comparison:
        return ""
    rows = [[label, f"{value:.4f}"] for label, value in report.comparison]
    bars = figure(f"{report.measure} on the held-out part", bar_chart(report.comparison, COLOUR_OF["central"]))
    return html_table(["model", report.measure], rows) + _grid([bars])


def _rounds(rows: Sequence[RoundRow]) -> str:
    names = ranked({name for row in rows for name in row.metrics})
    headers = ["round", *names, "clients", "failed", "down (kB)", "up (kB)", "seconds"]
    shown = rows[-ROUNDS_SHOWN:]
    told = f"<p>The last {ROUNDS_SHOWN} of {len(rows)}.</p>" if len(rows) > len(shown) else ""
    return told + html_table(headers, [_cells(row, names) for row in shown])


def _cells(row: RoundRow, names: Sequence[str]) -> list[str]:
    values = [f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in names]
    traffic = [f"{row.bytes_down / 1000:.1f}", f"{row.bytes_up / 1000:.1f}"]
    return [str(row.round), *values, f"{row.contributed}/{row.asked}", str(row.failed), *traffic, f"{row.seconds:.2f}"]
