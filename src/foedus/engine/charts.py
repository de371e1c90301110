"""Charts as inline SVG: lines over rounds, bars per client, histograms of many clients.

A chart refers to nothing outside itself, runs no script, and takes its ink from the page (``currentColor``,
``--line``), so that it reads in light and dark. Every text in it is escaped; hovering a point shows its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f83cc", "#cf7417", "#3f9155", "#b8518b", "#7d62c9", "#2b958f", "#9a8422", "#c94f47")
"""Each has a contrast of at least 3 to white and to the dark page, the least for a chart's line (WCAG 2.1)."""

WIDTH, HEIGHT = 440.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 10.0, 36.0
DOTTED = 40
"""Lines of more points than this have no dots."""

DRAWN = 600
"""Points of a line that are drawn at most; of more, the lowest and the highest of each stretch."""

BINS = 20
LABEL = 16

Point = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """A line: ``points`` ``(x, y)`` from left to right, and perhaps a ``band`` ``(x, low, high)`` behind it."""

    label: str
    points: Sequence[Point]
    colour: str
    band: Sequence[tuple[float, float, float]] = ()


def line_chart(series: Sequence[Series], x_label: str = "round", y_label: str = "", *, zero: bool = False) -> str:
    """Lines with a legend. ``zero`` has the y axis begin there. Points that are not finite are left out."""
    lines = [_finite(line) for line in series]
    xs = [x for line in lines for x, _ in line.points]
    if not xs:
        return '<p class="soft">Nothing was measured.</p>'
    ys = [y for line in lines for _, y in line.points] + [y for line in lines for edge in line.band for y in edge[1:]]
    whole = all(x == int(x) for x in xs)
    x_ticks, y_ticks = ticks(min(xs), max(xs), whole=whole), ticks(0.0 if zero else min(ys), max(ys))
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    across, up = _scale(x_low, x_high, LEFT, WIDTH - RIGHT), _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    axes = _axes([t for t in x_ticks if x_low <= t <= x_high], y_ticks, across, up)
    body = "".join(_line(line, across, up) for line in lines)
    return legend(lines) + _svg(HEIGHT, axes + body + _names(x_label, y_label, HEIGHT), x_label)


def legend(series: Sequence[Series]) -> str:
    """What each colour stands for."""
    items = (f'<li><i style="background:{escape(s.colour)}"></i>{escape(s.label)}</li>' for s in series)
    return f'<ul class="legend">{"".join(items)}</ul>'


def bar_chart(rows: Sequence[tuple[str, float]], colour: str = COLOURS[0]) -> str:
    """Horizontal bars with their values; what is below zero goes to the left."""
    values = [value if math.isfinite(value) else 0.0 for _, value in rows]
    low, high = min([0.0, *values]), max([0.0, *values])
    left = 12 + 6.6 * max((min(len(label), LABEL) for label, _ in rows), default=0)
    across = _scale(low, high if high > low else low + 1, left, WIDTH - 52)
    bars = []
    for at, ((label, value), drawn) in enumerate(zip(rows, values, strict=True)):
        y, start, end = at * 20.0 + 4, *sorted((across(0.0), across(drawn)))
        shown = label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"
        bars.append(
            f'<text x="{left - 6:.1f}" y="{y + 11:.0f}" text-anchor="end">{escape(shown)}</text>'
            f'<rect x="{start:.1f}" y="{y:.0f}" width="{max(end - start, 0.5):.1f}" height="14" '
            f'fill="{escape(colour)}"><title>{escape(label)}: {value:.6g}</title></rect>'
            f'<text x="{end + 5:.1f}" y="{y + 11:.0f}">{value:.3g}</text>'
        )
    return _svg(20.0 * len(rows) + 8, "".join(bars), "per client")


def histogram(values: Sequence[float], x_label: str, colour: str = COLOURS[0]) -> str:
    """How many of the values fall into each of twenty equal bins."""
    kept = [value for value in values if math.isfinite(value)]
    if not kept:
        return '<p class="soft">Nothing was measured.</p>'
    low, high = min(kept), max(kept)
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for value in kept:
        counts[min(int((value - low) / width), BINS - 1)] += 1
    edges, y_ticks = ticks(low, low + width * BINS), ticks(0.0, float(max(counts)), whole=True)
    across, up = _scale(low, low + width * BINS, LEFT, WIDTH - RIGHT), _scale(0.0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    axes = _axes([edge for edge in edges if low <= edge <= low + width * BINS], y_ticks, across, up)
    bars = [
        f'<rect x="{across(low + at * width) + 0.5:.1f}" y="{up(count):.1f}" height="{up(0.0) - up(count):.1f}" '
        f'width="{(WIDTH - RIGHT - LEFT) / BINS - 1:.1f}" fill="{escape(colour)}">'
        f"<title>{low + at * width:.4g} to {low + (at + 1) * width:.4g}: {count}</title></rect>"
        for at, count in enumerate(counts)
    ]
    return _svg(HEIGHT, axes + "".join(bars) + _names(x_label, "clients", HEIGHT), x_label)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers that reach from at most ``low`` to at least ``high``: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.13, 0.88)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 3, whole=True)
    [1.0, 2.0, 3.0]
    """
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(times * power for times in (1, 2, 5, 10) if span / (times * power) <= count + 1e-9)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(at * step, 12) for at in range(first, max(last, first + 1) + 1)]


def thinned(points: Sequence[Point], limit: int = DRAWN) -> Iterator[Point]:
    """At most ``limit`` points, the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        yield from points
        return
    stretches = limit // 2
    for at in range(stretches):
        part = points[at * len(points) // stretches : (at + 1) * len(points) // stretches]
        yield from sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})


def _finite(line: Series) -> Series:
    points = list(thinned([point for point in line.points if all(map(math.isfinite, point))]))
    xs = {x for x, _ in points}
    return Series(line.label, points, line.colour, [e for e in line.band if e[0] in xs and all(map(math.isfinite, e))])


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _line(line: Series, across: Scale, up: Scale) -> str:
    colour = escape(line.colour)
    drawn = []
    if len(line.band) > 1:
        there = [f"{across(x):.1f},{up(high):.1f}" for x, _, high in line.band]
        back = [f"{across(x):.1f},{up(low):.1f}" for x, low, _ in reversed(line.band)]
        drawn.append(f'<polygon points="{" ".join(there + back)}" fill="{colour}" opacity="0.15"/>')
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
    drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    if len(line.points) <= DOTTED:
        drawn += [
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.6" fill="{colour}">'
            f"<title>{escape(line.label)}, {x:g}: {y:.6g}</title></circle>"
            for x, y in line.points
        ]
    return "".join(drawn)


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], across: Scale, up: Scale) -> str:
    bottom = HEIGHT - BOTTOM
    rows = [
        f'<path d="M{LEFT:.0f} {up(t):.1f}H{WIDTH - RIGHT:.0f}" stroke="var(--line)"/>'
        f'<text x="{LEFT - 6:.0f}" y="{up(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in y_ticks
    ]
    columns = [f'<text x="{across(t):.1f}" y="{bottom + 15:.0f}" text-anchor="middle">{t:g}</text>' for t in x_ticks]
    return "".join([*rows, *columns])


def _names(x_label: str, y_label: str, height: float) -> str:
    x = f'<text x="{WIDTH - RIGHT:.0f}" y="{height - 4:.0f}" text-anchor="end" opacity="0.7">{escape(x_label)}</text>'
    y = f'<text x="{LEFT:.0f}" y="{height - 4:.0f}" opacity="0.7">↑ {escape(y_label)}</text>' if y_label else ""
    return x + y


def _svg(height: float, body: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'fill="currentColor" font-size="11.5">{body}</svg>'
    )
