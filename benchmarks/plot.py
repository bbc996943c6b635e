"""Bar charts as SVG: few bars, their values beside them, readable on a light and on a dark page."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _BAR, _GAP, _TOP, _VALUE = 640, 210, 20, 10, 40, 80
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}rect{fill:#3b6ea8}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#6ea8e6}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Figures of a case that are compared."""

    case: str
    name: str  #: of its file
    title: str
    bars: tuple[tuple[str, str], ...]  #: label, name of the figure


def svg(title: str, bars: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars from zero on, as long as their values."""
    most = max((value for _, value in bars), default=0) or 1
    height = _TOP + len(bars) * (_BAR + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="20">{escape(title)}</text>',
    ]
    for index, (label, value) in enumerate(bars):
        y = _TOP + index * (_BAR + _GAP)
        length = (_WIDTH - _LABEL - _VALUE) * value / most
        lines += [
            f'<text x="{_LABEL - 10}" y="{y + 15}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2"/>',
            f'<text x="{_LABEL + length + 8:.1f}" y="{y + 15}">{_short(value)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
