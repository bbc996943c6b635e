"""The published figures: those of a run, and beside them the last ones of what it left out."""

from typing import Any

PARTS = ("leaders", "defences", "simulation")  #: beside the rounds; a run may be told to leave them out


def with_earlier(report: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The report, with the rows that an earlier one alone has, each with the date of its own; and their details."""
    told = {row["what"] for row in report["runs"]}
    kept = [{"date": earlier["date"]} | row for row in earlier.get("runs", ()) if row["what"] not in told]
    runs = [{"date": report["date"]} | row for row in report["runs"]]
    parts = {name: earlier[name] for name in PARTS if name in earlier and not _done(report.get(name))}
    return report | {"runs": [*runs, *kept]} | parts


def _done(part: dict[str, Any] | None) -> bool:
    """Has a run done some of this part? (The rounds and seeds it did, or the defences that it tried.)"""
    return bool(part) and part.get("rounds", part.get("seeds", 1)) != 0
