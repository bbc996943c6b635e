#!/usr/bin/env python3
"""Put the figures of docs/results/faults.json into docs/guarantees.md: the table between the two marks.

{"date": "…", "version": "…", "machine": "…",
 "runs": [{"what": "…", "count": 100, "anomalies": 0, "seeds": "1-100", "seconds": 1700}]}
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
RESULT = ROOT / "docs" / "results" / "faults.json"
_MARKED = re.compile(r"(<!-- long run[^\n]*-->\n).*?(<!-- /long run -->)", re.DOTALL)
_NONE_YET = "The figures of the long runs, with their seeds, are published with the release.\n"


def table(result: dict[str, object] | None) -> str:
    """The table as Markdown; a sentence when there is no result."""
    if result is None:
        return _NONE_YET
    lines = [f"{result['date']}, version {result['version']}, {result['machine']}.", ""]
    lines += ["| run | count | anomalies | seeds | seconds |", "|---|---:|---:|---|---:|"]
    runs = result["runs"]
    assert isinstance(runs, list)
    for run in runs:
        cells = (f"{run[name]:,}" for name in ("count", "anomalies"))
        lines.append(f"| {run['what']} | {' | '.join(cells)} | {run['seeds']} | {run['seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def filled(page: str, result: dict[str, object] | None) -> str:
    """The page with the table of this result. Raises ``ValueError`` when it has no place for it."""
    if not _MARKED.search(page):
        raise ValueError("there are no marks for the table")
    return _MARKED.sub(lambda marks: marks[1] + table(result) + marks[2], page)


def read_result() -> dict[str, object] | None:
    """What the last long run left; ``None`` when there was none yet."""
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else None


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), read_result()), encoding="utf-8")
