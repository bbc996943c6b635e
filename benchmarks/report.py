"""Medians with their spread, as JSON and as the tables of docs/benchmarks.md."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = {
    "throughput": (
        ("cpu_ms_per_turn", "worker CPU, ms/turn", 2),
        ("turns_per_s", "turns/s", 0),
        ("broker_cpu_ms_per_turn", "broker CPU, ms/turn", 2),
        ("foreign_cores", "foreign load, cores", 2),
    ),
    "latency": (
        ("first_delta_p50_ms", "first delta p50, ms", 1),
        ("first_delta_p99_ms", "p99, ms", 1),
        ("completed_p50_ms", "completed p50, ms", 1),
        ("completed_p99_ms", "p99, ms", 1),
        ("cpu_ms_per_turn", "worker CPU, ms/turn", 2),
        ("foreign_cores", "foreign load, cores", 2),
    ),
}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest of every figure that the runs have in common."""
    numbers = [name for name, value in runs[0].items() if isinstance(value, int | float)]
    return {
        name: {
            "median": round(statistics.median(run[name] for run in runs), 3),
            "min": round(min(run[name] for run in runs), 3),
            "max": round(max(run[name] for run in runs), 3),
        }
        for name in numbers
    }


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """The figures of each kind as Markdown, with what they were measured on."""
    commit, machine = result["commit"], result["machine"]
    changed = f" and {commit['changed']} files that differ from it" if commit["changed"] else ""
    measured = (
        f"Measured {result['at']} on {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; commit {commit['id']}{changed}; `{result['command']}`. "
        f"Broker, load and worker share the machine. Median of {result['runs']} alternating runs (least–greatest)."
    )
    found = {}
    for kind, columns in _COLUMNS.items():
        cases = [case for case in result["cases"] if case["kind"] == kind]
        if cases:
            found[kind] = "\n".join([measured, "", *_table(cases, columns)]) + "\n"
    return found


def _table(cases: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    shown = [column for column in columns if any(column[0] in case["summary"] for case in cases)]
    yield "| | " + " | ".join(title for _, title, _ in shown) + " | load average |"
    yield "|---" * (len(shown) + 2) + "|"
    for case in cases:
        cells = [_cell(case["summary"].get(name), digits) for name, _, digits in shown]
        loads = [load for run in case["runs"] for load in run["load_average"]]
        yield f"| {case['what']} | {' | '.join(cells)} | {min(loads):.1f}–{max(loads):.1f} |"


def _cell(figure: Mapping[str, float] | None, digits: int) -> str:
    if figure is None:
        return ""
    median, least, most = (f"{figure[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"**{median}** ({least}–{most})"


def write_into(page: Path, figures: str, *, name: str) -> None:
    """Replace what stands in a Markdown page between two marks. ``ValueError`` when they are not there."""
    marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks {marks[0]} and {marks[1]}")
    page.write_text(f"{before}{begin}\n{figures}{end}{after}", encoding="utf-8")
