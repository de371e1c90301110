"""Sizes, times and cells as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes as people read them.

    >>> size(999), size(2_400_000)
    ('999 B', '2.4 MB')
    """
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(90), duration(600), duration(20_000), duration(604_800)
    ('90 s', '10 min', '5.6 h', '7.0 days')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def cell(value: object) -> object:
    """A value for a CSV: a text that a spreadsheet would take for a formula is marked as text by an apostrophe.

    >>> cell("=1+1"), cell("-0.5"), cell(-0.5), cell("plain")
    ("'=1+1", '-0.5', -0.5, 'plain')
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
