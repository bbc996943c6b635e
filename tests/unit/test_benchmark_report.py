"""What a benchmark's run writes into the page with the figures."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report

MACHINE = {"cores": 2, "cpu": "some", "memory_gib": 4, "system": "Linux", "python": "3.11"}


def result(*kinds: str) -> dict[str, Any]:
    """One run with a case of each kind."""
    run = {"cpu_ms_per_turn": 0.5, "load_average": [0.1, 0.2]}
    case = {"what": "a worker", "summary": report.summary([run]), "runs": [run]}
    cases = [case | {"kind": kind} for kind in kinds]
    commit = {"id": "abc", "changed": 0}
    return {"at": "now", "command": "bench", "commit": commit, "machine": MACHINE, "runs": 1, "cases": cases}


def test_what_was_not_measured_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = "".join(f"<!-- {kind}: begin -->\nold {kind}\n<!-- {kind}: end -->\n" for kind in ("throughput", "latency"))
    page.write_text(f"before\n{marks}after\n")
    for kind, figures in report.tables(result("latency")).items():
        report.write_into(page, figures, name=kind)
    text = page.read_text()
    assert "old throughput" in text
    assert "old latency" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| a worker | **0.50** (0.50–0.50) | 0.1–0.2 |" in text
    assert list(report.tables(result("throughput", "latency"))) == ["throughput", "latency"]


def test_a_page_without_the_marks_is_said_to_be_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="latency: begin"):
        report.write_into(page, "", name="latency")
