"""A chart of a query's answer as SVG: bars over names, or lines over numbers and times. Pure, and only text and shapes.

The first column names the points, each column of numbers is a series. No styles inside: the page's policy allows none,
so colours are classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Literal

Kind = Literal["bar", "line"]
Height = Callable[[float], float]  #: from a value to its place on the page
MAX_BARS = 60
MAX_POINTS = 2_000
MAX_SERIES = 6
WIDTH, HEIGHT = 860, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 12, 14, 46
_TICKS = 4
_LABEL_CHARS = 14
_WIDEST_BAR = 80
_LARGEST = 1e300  #: what is above cannot be added up any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One column of numbers; ``None`` where there is none."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn."""

    kind: Kind
    labels: tuple[str, ...]
    places: tuple[float, ...]  #: on the axis below, from 0 to 1
    series: tuple[Series, ...]


def chart_of(
    columns: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[str | None]], *, kind: Kind | None = None
) -> Chart | str:
    """The chart of an answer, or a sentence why there is none. ``kind`` ``None``: what suits the first column."""
    numbers = [index for index in range(1, len(columns)) if numeric[index]][:MAX_SERIES]
    if len(columns) < 2 or not numbers:
        return "A chart needs a first column that names its points, and a column of numbers behind it."
    if not rows:
        return "There is nothing to draw: the answer has no rows."
    labels = tuple("NULL" if row[0] is None else row[0] for row in rows)
    on_axis = _axis(labels, is_number=numeric[0])
    chosen: Kind = kind or ("bar" if on_axis is None else "line")
    most = MAX_BARS if chosen == "bar" else MAX_POINTS
    if len(rows) > most:
        return f"A chart of {len(rows)} rows cannot be read: {most} are the most. Ask for fewer, or group them."
    places = on_axis if chosen == "line" and on_axis is not None else _evenly(len(rows))
    series = tuple(Series(name=columns[i], values=tuple(_number(row[i]) for row in rows)) for i in numbers)
    if not any(value is not None for each in series for value in each.values):
        return "There is nothing to draw: the columns of numbers hold none."
    return Chart(kind=chosen, labels=labels, places=places, series=series)


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if abs(value) < _LARGEST else None


def _moment(text: str) -> float | None:
    if len(text) < 8 or text[4:5] != "-":
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _axis(labels: Sequence[str], *, is_number: bool) -> tuple[float, ...] | None:
    """Where points are if the first column is one of numbers or times, each of them readable."""
    found = [_number(label) if is_number else _moment(label) for label in labels]
    known = [value for value in found if value is not None]
    if len(known) != len(found):
        return None
    low, high = min(known), max(known)
    return tuple((value - low) / (high - low) if high > low else 0.5 for value in known)


def _evenly(count: int) -> tuple[float, ...]:
    return tuple((index + 0.5) / count for index in range(count))


def _scale(chart: Chart) -> tuple[float, float, float]:
    """Lowest and highest value of the axis, and the step between its lines."""
    values = [value for series in chart.series for value in series.values if value is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return math.floor(low / step) * step, max(step, math.ceil(high / step) * step), step


def to_svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    low, high, step = _scale(chart)
    inner_w, inner_h = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        return _TOP + inner_h * (high - value) / (high - low)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="chart">']
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    xs = [_LEFT + inner_w * place for place in chart.places]
    draw = _bars if chart.kind == "bar" else _lines
    for index, series in enumerate(chart.series):
        parts += draw(chart, series, index, xs, y, inner_w)
    every = max(1, math.ceil(len(xs) / 10))
    for index in range(0, len(xs), every):
        label = chart.labels[index]
        shown = label if len(label) <= _LABEL_CHARS else f"{label[: _LABEL_CHARS - 1]}…"
        anchor = "middle" if chart.kind == "bar" or 0 < index < len(xs) - 1 else ("start" if index == 0 else "end")
        parts.append(
            f'<text class="tick" x="{xs[index]:.1f}" y="{HEIGHT - 26}" text-anchor="{anchor}">{escape(shown)}</text>'
        )
    for index, series in enumerate(chart.series):
        x = _LEFT + index * 130
        parts.append(f'<rect class="s{index}" x="{x}" y="{HEIGHT - 14}" width="10" height="10"/>')
        parts.append(f'<text class="tick" x="{x + 14}" y="{HEIGHT - 5}">{escape(series.name[:16])}</text>')
    return "".join([*parts, "</svg>"])


def _bars(chart: Chart, series: Series, index: int, xs: Sequence[float], y: Height, inner_w: float) -> list[str]:
    slot = min(_WIDEST_BAR, inner_w / len(xs) * 0.8 / len(chart.series))
    parts = []
    for x, label, value in zip(xs, chart.labels, series.values, strict=True):
        if value is not None:
            left = x - slot * len(chart.series) / 2 + slot * index
            top, height = min(y(value), y(0)), abs(y(value) - y(0))
            title = f"<title>{escape(label)}: {escape(_short(value))} {escape(series.name)}</title>"
            place = f'x="{left:.1f}" y="{top:.1f}" width="{slot:.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="s{index}" {place}>{title}</rect>')
    return parts


def _lines(chart: Chart, series: Series, index: int, xs: Sequence[float], y: Height, inner_w: float) -> list[str]:
    points = sorted((x, y(value)) for x, value in zip(xs, series.values, strict=True) if value is not None)
    path = " ".join(f"{x:.1f},{height:.1f}" for x, height in points)
    return [
        f'<polyline class="l{index}" points="{path}"/>',
        *(f'<circle class="s{index}" cx="{x:.1f}" cy="{height:.1f}" r="2.5"/>' for x, height in points[:200]),
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
