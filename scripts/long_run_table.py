#!/usr/bin/env python3
"""Put the figures of the long runs into docs/guarantees.md: the table between the two marks, and the times below it.

docs/results/faults.json, by `python -m tests.faults --result docs/results/faults.json`:
{"date": "…", "version": "…", "machine": "…",
 "runs": [{"what": "…", "date": "…", "count": 100, "anomalies": 0, "seeds": "1-100", "seconds": 1700}],
 "faults": {"takeover_s": {"count": 300, "p50": 3.1, "p95": 6.2, "max": 9.3},
            "late_frames": {"rounds": 10, "frames": 6, "copies": 5}},
 "leaders": {"late_frames": {…}}}

docs/results/million.json, by `python -m tests.faults.million --result docs/results/million.json`

docs/results/seeds.json, by `python -m tests.faults.seeds`
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
RESULT = ROOT / "docs" / "results" / "faults.json"
MILLION = ROOT / "docs" / "results" / "million.json"
SEEDS = ROOT / "docs" / "results" / "seeds.json"
_MARKED = re.compile(r"(<!-- long run[^\n]*-->\n).*?(<!-- /long run -->)", re.DOTALL)
_NONE_YET = "The figures of the long runs, with their seeds, are published with the release.\n"


def table(result: dict[str, object] | None) -> str:
    """The table as Markdown; a sentence when there is no result."""
    if result is None:
        return _NONE_YET
    lines = [f"{result['date']}, version {result['version']}, {result['machine']}.", ""]
    lines += ["| run | date | count | anomalies | seeds | seconds |", "|---|---|---:|---:|---|---:|"]
    runs = result["runs"]
    assert isinstance(runs, list)
    for run in runs:
        cells = (f"{run[name]:,}" for name in ("count", "anomalies"))
        date = run.get("date", result["date"])
        lines.append(f"| {run['what']} | {date} | {' | '.join(cells)} | {run['seeds']} | {run['seconds']:,.0f} |")
    return "\n".join([*lines, *_times(result)]) + "\n"


def _times(result: dict[str, object]) -> list[str]:
    """How long takeovers took, where the result tells."""
    lines = []
    faults, million = result.get("faults"), result.get("million")
    if isinstance(faults, dict) and "p50" in faults["takeover_s"]:
        seconds = faults["takeover_s"]
        lines += [
            "",
            "From a worker's death or pause to the next frame of a partition in which it had a turn, with a session "
            f"timeout of {faults['session_timeout_s']:g} s: median {seconds['p50']} s, 95 % within {seconds['p95']} s, "
            f"the longest {seconds['max']} s ({seconds['count']} takeovers, most of them while others died, too).",
        ]
    if isinstance(million, dict):
        never, again = million["never_owned"], million["owned_before"]
        lines += [
            "",
            f"A partition with {million['records']:,} events that this host never had is served "
            f"{never['assigned_to_serving_s']} s after its assignment ({million['events_per_s']:,} events a second; "
            f"the bound is {million['bound_s']:g} s), and {again['assigned_to_serving_s']} s after it if its file "
            "is there.",
        ]
    return [*lines, *_late_frames(result), *_seeds(result.get("seeds"))]


def _late_frames(result: dict[str, object]) -> list[str]:
    """What is allowed where a broker fails, and how often it was so."""
    told = []
    for name, where in (("faults", "on one node"), ("leaders", "on three nodes")):
        part = result.get(name)
        late = part.get("late_frames") if isinstance(part, dict) else None
        if late and late["rounds"]:
            rounds = f"{late['rounds']:,} round{'' if late['rounds'] == 1 else 's'}"
            copies = f" ({late['copies']:,} of them for the second time)" if late["frames"] else ""
            told.append(f"{late['frames']:,} in {rounds} {where}{copies}")
    if not told:
        return []
    return ["", f"Frames behind the terminal one of their attempt, as a broken link may bring them: {', '.join(told)}."]


def _seeds(seeds: object) -> list[str]:
    """How many seeds the simulation has seen by itself."""
    if not isinstance(seeds, dict):
        return []
    return [
        "",
        f"The simulation alone, a little whenever a machine was idle: {seeds['seeds']:,} seeds "
        f"({seeds['first']}-{seeds['next'] - 1}) from {seeds['began']} to {seeds['date']}, {seeds['failing']:,} with "
        f"anomalies that are not mended (what was red at first is told below), {seeds['seconds']:,.0f} seconds of all "
        f"processes. `make seeds` goes on there, up to 1,000,000.",
    ]


def filled(page: str, result: dict[str, object] | None) -> str:
    """The page with the table of this result. Raises ``ValueError`` when it has no place for it."""
    if not _MARKED.search(page):
        raise ValueError("there are no marks for the table")
    return _MARKED.sub(lambda marks: marks[1] + table(result) + marks[2], page)


def read_result() -> dict[str, object] | None:
    """What the last long run left; ``None`` when there was none yet."""
    if not RESULT.exists():
        return None
    result: dict[str, object] = json.loads(RESULT.read_text(encoding="utf-8"))
    if MILLION.exists():
        result["million"] = json.loads(MILLION.read_text(encoding="utf-8"))
    if SEEDS.exists():
        result["seeds"] = json.loads(SEEDS.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), read_result()), encoding="utf-8")
