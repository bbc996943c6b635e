"""The report as one HTML file: shapes, text and a style, nothing that runs or is fetched. Pure."""

from datetime import datetime
from html import escape

from turnlog.report.figures import Figure, Figures
from turnlog.snapshot.charts import Chart, to_svg

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --soft: #6b7076; --line: #d8dbe0;
  --s0: #2f6fde; --s1: #e0781f; --s2: #2a9d62; --s3: #b13fa5; --s4: #8c7a1e; --s5: #c23b3b; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e8e9eb; --soft: #9aa0a7; --line: #363a40; } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--back); color: var(--text); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 0; }
p { color: var(--soft); margin: .2rem 0 .6rem; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } dt { color: var(--soft); } dd { margin: 0; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; } summary { color: var(--soft); }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } .grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 11px; }
.l0, .l1, .l2, .l3, .l4, .l5 { fill: none; stroke-width: 2; }
""" + "".join(f".s{n} {{ fill: var(--s{n}); }} .l{n} {{ stroke: var(--s{n}); }}\n" for n in range(6))
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(figures: Figures, *, days: int, made_at: datetime) -> str:
    """The whole file."""
    totals = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.totals)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Turnlog report</title><style>{_STYLE}</style></head><body>"
        f"<h1>Turnlog report</h1><p>The last {days} days of the snapshot, made {made_at:%Y-%m-%d %H:%M:%S} UTC.</p>"
        f"<dl>{totals}</dl>{''.join(map(_section, figures.figures))}</body></html>\n"
    )


def _section(figure: Figure) -> str:
    question = figure.question
    head = f"<section><h2>{escape(question.title)}</h2><p>{escape(question.about)}</p>"
    if not figure.rows:
        return f"{head}<p><em>Nothing.</em></p></section>"
    if isinstance(figure.chart, Chart):
        return f"{head}{to_svg(figure.chart)}<details><summary>Figures</summary>{_table(figure)}</details></section>"
    return f"{head}{_table(figure)}</section>"


def _table(figure: Figure) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in figure.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in figure.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(cell: str | None) -> str:
    return f"<td>{escape(cell) if cell is not None else '&ndash;'}</td>"
