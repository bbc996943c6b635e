"""Streams of any size: cases whose cost must follow what is needed, not what was ever said, and the bars they keep."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plot import Chart, svg

NEEDS_BUILD = "needs `--against COMMIT`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure of a case, and how far it may go."""

    case: str
    figure: str
    what: str
    most: float | None = None
    least: float | None = None
    unit: str = "×"

    def holds(self, value: float) -> bool:
        """Is the value within it?"""
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    @property
    def text(self) -> str:
        """For people."""
        return f"≤ {self.most:g} {self.unit}" if self.most is not None else f"≥ {self.least:g} {self.unit}"


BARS = (
    Bar(
        case="channel",
        figure="opening_ratio",
        what="opening a session in a channel of {many} sessions, against one of {few}: time "
        "(the slower of `create` and a chat that opens it)",
        most=1.2,
    ),
    Bar(case="channel", figure="opening_cpu_ratio", what="the same: worker CPU", most=1.2),
    Bar(
        case="channel",
        figure="chat_records_ratio",
        what="a chat to an older session of the large channel: requests and events that it causes, against one "
        "without a channel",
        most=1.0,
    ),
    Bar(
        case="long-session",
        figure="warm_ratio",
        what="first delta in a session of {long_turns} answered requests, against one of {short_turns}",
        most=1.1,
    ),
    Bar(
        case="long-session",
        figure="cold_ratio",
        what="the same, both not in memory (a model sees {seen} messages of either)",
        most=1.5,
    ),
    Bar(case="long-session", figure="memory_ratio", what="its memory, against the short one's", most=2.0),
    Bar(
        case="takeover",
        figure="decode_ratio",
        what="takeover of a partition never owned, {events} events, against reading and decoding them alone",
        most=1.5,
    ),
    Bar(case="takeover", figure="speedup", what="the same: how much faster than {against}", least=2.0),
    Bar(
        case="rebuild",
        figure="decode_ratio",
        what="records a second of `turnlog rebuild`, {events} events in 12 partitions, against reading and "
        "decoding them alone (one process)",
        least=0.7,
    ),
    Bar(
        case="analysts",
        figure="top_50_p50_ms",
        what="the newest 50 sessions of a channel, of {messages} messages",
        most=30.0,
        unit="ms",
    ),
    Bar(case="analysts", figure="history_p50_ms", what="the same: 200 messages of a session", most=10.0, unit="ms"),
    Bar(case="analysts", figure="search_p50_ms", what="the same: `search` for a word", most=300.0, unit="ms"),
    Bar(case="idle", figure="rss_mb", what="worker memory with {sessions} idle sessions", most=300.0, unit="MB"),
    Bar(
        case="steady",
        figure="cpu_ratio",
        what="worker CPU for a turn at 50 turns a second, against {against}",
        most=0.85,
    ),
    Bar(case="steady", figure="first_delta_p50_ratio", what="the same: request to first text, p50", most=0.6),
    Bar(case="steady", figure="first_delta_p99_ratio", what="the same: p99", most=0.7),
    Bar(
        case="streams",
        figure="wall_max",
        what="{streams} answers of {words} words side by side, a word each {delta_ms} ms: the slowest, against what it "
        "takes alone",
        most=1.25,
    ),
    Bar(case="streams", figure="late_p99_ms", what="the same: a word after it was due, p99", most=250.0, unit="ms"),
    Bar(case="streams", figure="worker_cores", what="the same: the worker's CPU", most=1.0, unit="cores"),
    *(
        Bar(
            case=case,
            figure="pace_ratio",
            what="{streams} of them, more than the worker has time for: none loses a word, and the slowest against the "
            "quickest",
            most=1.25,
        )
        for case in ("streams-3000", "streams-5000")
    ),
    Bar(
        case="open-turns",
        figure="new_first_delta_p99_ms",
        what="{open} open turns with a word each {delta_ms} ms, and new sessions beside them: first text of those, p99",
        most=100.0,
        unit="ms",
    ),
    Bar(case="open-turns", figure="worker_rss_mb", what="the same: the worker's memory", most=700.0, unit="MB"),
    Bar(
        case="neighbours",
        figure="ratio",
        what="a turn beside one of a minute in its partition, against one without: p50",
        most=1.1,
    ),
    Bar(
        case="start",
        figure="up_ratio",
        what="`turnlog up` in an empty folder to the first answer, against {against}",
        most=0.7,
    ),
    Bar(case="start", figure="worker_ratio", what="a worker's command line to ready, against {against}", most=0.7),
    Bar(
        case="restart",
        figure="next_delta_p95_s",
        what="`kill -9` of a worker that its supervisor starts again, {kills} times: next text of its sessions, p95",
        most=5.0,
        unit="s",
    ),
    Bar(
        case="host",
        figure="beyond_timeout_p95_s",
        what="`kill -9` of a worker that nobody starts again, {kills} times: next text of its sessions, p95, beyond "
        "the session timeout ({session_timeout_s} s)",
        most=2.0,
        unit="s",
    ),
    Bar(
        case="rolling",
        figure="calls_lost",
        what="three workers restarted {restarts} times, one after the other, under {turns} turns of 2 s: model calls "
        "that were lost",
        most=0.0,
        unit="calls",
    ),
)
CHARTS = (
    Chart(
        case="channel",
        name="channel-time",
        title="Opening a session: median time, ms",
        bars=(
            ("create, small channel", "create_few_p50_ms"),
            ("create, large channel", "create_many_p50_ms"),
            ("chat, small channel", "chat_few_p50_ms"),
            ("chat, large channel", "chat_many_p50_ms"),
        ),
    ),
    Chart(
        case="channel",
        name="channel-cpu",
        title="Opening a session: worker CPU, ms",
        bars=(
            ("create, small channel", "create_few_cpu_ms"),
            ("create, large channel", "create_many_cpu_ms"),
            ("chat, small channel", "chat_few_cpu_ms"),
            ("chat, large channel", "chat_many_cpu_ms"),
        ),
    ),
    Chart(
        case="long-session",
        name="long-session",
        title="Request to first delta: median, ms",
        bars=(
            ("short, in memory", "warm_short_p50_ms"),
            ("long, in memory", "warm_long_p50_ms"),
            ("short, cold", "cold_short_p50_ms"),
            ("long, cold", "cold_long_p50_ms"),
        ),
    ),
    Chart(
        case="takeover",
        name="takeover",
        title="A partition never owned: seconds",
        bars=(
            ("reading and decoding alone", "decode_alone_s"),
            ("takeover", "takeover_s"),
            ("takeover, build before", "takeover_before_s"),
        ),
    ),
    Chart(
        case="idle",
        name="idle",
        title="Worker memory, idle sessions: MB",
        bars=(("after the first pass", "first_rss_mb"), ("after the last pass", "rss_mb"), ("peak", "peak_rss_mb")),
    ),
    Chart(
        case="steady",
        name="steady",
        title="Worker CPU for a turn at 50 turns a second: ms",
        bars=(("build before", "cpu_ms_per_turn_before"), ("this build", "cpu_ms_per_turn")),
    ),
    Chart(
        case="open-turns",
        name="open-turns",
        title="A new session beside many open turns: first text, ms",
        bars=(("p50", "new_first_delta_p50_ms"), ("p99", "new_first_delta_p99_ms")),
    ),
    Chart(
        case="streams",
        name="streams",
        title="Many answers side by side: a word after it was due, ms",
        bars=(("p50", "late_p50_ms"), ("p99", "late_p99_ms")),
    ),
    Chart(
        case="neighbours",
        name="neighbours",
        title="A turn, alone and beside one of a minute: median, ms",
        bars=(("alone", "alone_p50_ms"), ("beside", "beside_p50_ms")),
    ),
    Chart(
        case="host",
        name="host",
        title="A host that is gone: seconds to the next text",
        bars=(("p50", "next_delta_p50_s"), ("p95", "next_delta_p95_s"), ("longest", "next_delta_max_s")),
    ),
    Chart(
        case="rolling",
        name="rolling",
        title="First text while workers are restarted one by one: ms",
        bars=(("p50", "first_delta_p50_ms"), ("p99", "first_delta_p99_ms"), ("longest", "first_delta_max_ms")),
    ),
    Chart(
        case="start",
        name="start",
        title="From the command line to work: seconds",
        bars=(
            ("turnlog up, build before", "up_s_before"),
            ("turnlog up", "up_s"),
            ("worker, build before", "worker_s_before"),
            ("worker", "worker_s"),
        ),
    ),
)


def keep(page: Path, case: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Put a case's newest run in the place of the one before, in a JSON document; all that are in it."""
    known: dict[str, Any] = json.loads(page.read_text()) if page.exists() else {}
    (run,) = case["runs"]
    known[case["name"]] = {**measured, "result": run}
    page.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known


def table(known: Mapping[str, Any], bars: Sequence[Bar] = BARS) -> str:
    """Every bar with the figure of its newest run, as Markdown."""
    lines = ["| | bar | measured | holds | when, commit, load average |", "|---|---|---|---|---|"]
    for bar in bars:
        entry = known.get(bar.case)
        if entry is None:
            continue
        result = entry["result"]
        value = result.get(bar.figure)
        shown, holds = (NEEDS_BUILD, "") if value is None else (f"**{value:.2f} {bar.unit}**", _yes(bar.holds(value)))
        commit = entry["commit"]["id"] + (" and changes" if entry["commit"]["changed"] else "")
        loads = "–".join(f"{load:.1f}" for load in result["load_average"])
        what = bar.what.format_map(_Named(result | entry.get("sizes", {})))
        lines.append(f"| {what} | {bar.text} | {shown} | {holds} | {entry['at']}, {commit}, {loads} |")
    return "\n".join(lines) + "\n"


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


class _Named(dict[str, Any]):
    """Values for a sentence: numbers with thousands separated, and dots for what is not known."""

    def __missing__(self, key: str) -> str:
        return "…"

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return f"{value:,}" if isinstance(value, int) else value


def missed(known: Mapping[str, Any], cases: Sequence[str], bars: Sequence[Bar] = BARS) -> Iterator[str]:
    """The bars that the newest runs of these cases do not keep."""
    for bar in bars:
        value = known.get(bar.case, {}).get("result", {}).get(bar.figure) if bar.case in cases else None
        if value is not None and not bar.holds(value):
            yield f"{bar.case}: {bar.figure} is {value:.2f}, and must be {bar.text}"


def charts(known: Mapping[str, Any], folder: Path, drawn: Sequence[Chart] = CHARTS) -> list[str]:
    """Draw what the newest runs found into SVG files; their Markdown, by paths relative to the folder's parent."""
    shown = []
    for chart in drawn:
        result = known.get(chart.case, {}).get("result", {})
        bars = [(label, result[key]) for label, key in chart.bars if result.get(key) is not None]
        if bars:
            path = folder / f"bench-{chart.name}.svg"
            path.write_text(svg(chart.title, bars), encoding="utf-8")
            shown.append(f"![{chart.title}]({folder.name}/{path.name})")
    return shown
